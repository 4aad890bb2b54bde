"""The campaign: thousands of kills, damaged files, odd options and hostile replies, each judged by what a user would see.

`make campaign` runs all of it in half an hour on two cores; `make campaign CASES=…` replays those whose name begins so.
A case is data: a name, and what is done to the product. What came of it is a `Verdict`.
"""
