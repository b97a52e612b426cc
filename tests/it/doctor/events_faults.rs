//! Faults of the queue, and of what comes out of it.
