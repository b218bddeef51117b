"""The process: its event loop, its signals, its service manager."""
