"""Pictures, and the HTML page of one run or several."""
