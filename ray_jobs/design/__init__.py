"""What is to be measured, as data: points, plans, trunks, presets, forecasts. Starts nothing."""
