"""How many planted faults does the doctor find, and how often does it raise a false alarm?"""
