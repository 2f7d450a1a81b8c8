"""ganpipe trains GANs every night and keeps the best one in production.

Reading order, as data flows: config -> prepare/ -> batches -> networks/, losses, gans/ -> train/ -> sample -> evaluate/
-> register/. What travels between stages is in refs, where things are kept in storage, the order of a night in night.
"""

__version__ = "0.1.0"
