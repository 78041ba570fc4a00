"""The laboratory of `bench.gateway` and its sisters: an upstream that is known, a load that is cheap, processes that
are weighed. Nothing here is a measurement by itself, and nothing of it is shipped.
"""
