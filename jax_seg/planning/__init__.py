"""Settings chosen from the data, the device and the time: facts, rules, configuration files."""
