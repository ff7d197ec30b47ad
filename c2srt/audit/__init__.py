"""A look at a packed data set before anybody trains on it.

    spelling.py      names of categories that differ by capitals, white space or a plural alone
    labels.py        how many positives each category has in each split
    job.py           runs the parts that are asked for and says what they found

What is found is for people to judge: nothing is changed here, and no finding is an error.
"""
