"""The process: its event loop, its signals, its service manager, its decoding thread."""
