"""The continual study's page: what is still known of tasks learned before, and of general text.

Tasks are learned one after the other by one adapter. After each, every task learned so far is measured: how
much is known in the end over all tasks, how much was lost of each since it was learned (backward transfer,
Lopez-Paz and Ranzato, 2017), and what was forgotten of general text.
"""
