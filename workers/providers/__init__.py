"""One module a wire format. Pure: values in, values out; no I/O, no clock, no settings, no logging."""
