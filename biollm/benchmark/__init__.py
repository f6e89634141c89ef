"""`biollm benchmark`: model folders over a suite of labelled tables, each audited for leaks, with plain baselines beside them."""
