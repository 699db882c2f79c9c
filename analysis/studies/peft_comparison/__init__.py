"""A study laid on the frontier that PEFT publishes: MetaMathQA to GSM8K, one seed a method."""
