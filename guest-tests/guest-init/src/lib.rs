//! The guest's PID 1: sets probes, does the workload, streams the trace, powers off.
