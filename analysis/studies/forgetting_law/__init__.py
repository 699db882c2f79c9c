"""The page of the law of forgetting.

Fitted to records, what it can and cannot tell, and whether geometry predicts unseen runs.
"""
