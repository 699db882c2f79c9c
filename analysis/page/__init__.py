"""How things are shown: tables, figures' common look, pages. Nothing here computes a statistic."""
