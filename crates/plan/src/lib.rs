//! What a workload needs and where it goes, as pure functions of a description and an inventory: no clock, no I/O.
