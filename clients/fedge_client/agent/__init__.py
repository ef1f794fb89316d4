"""The resident agent: the only process of a gateway that decides what leaves it.

It watches the worker's observations, keeps ledger, spool and block store,
answers the courier, and installs releases. It never trains (a trainer process
does), never answers an inference request (a worker does), and never loads
torch.
"""
