"""The baselines' page: every method at its own best learning rate, and its frontier over learning rates.

A learning rate is chosen on the evaluation examples with an even number (the validation split) and judged on
those with an odd one. At one learning rate any method can look gentle by learning less, so each is also laid
beside LoRA's frontier: the quality that LoRA reaches, by whatever learning rate, at the forgetting at which
the method stands.
"""
