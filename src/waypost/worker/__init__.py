"""Job handlers and periodic sweeps, in the control process. A handler gets ids, and bears being run twice."""
