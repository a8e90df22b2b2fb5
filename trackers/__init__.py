"""The server side: session layout, locks, trackers, submission records, schedulers, and the program that answers."""
