"""`make bench`: the storm against its floor, beside no proxy and nginx, and what a cache hit costs."""
