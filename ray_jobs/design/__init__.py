"""What is to be measured, as data: points, plans, shared beginnings, presets, forecasts. Starts nothing."""
