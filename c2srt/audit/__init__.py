"""A look at a packed data set before anybody trains on it.

    spelling.py      names of categories that differ by capitals, white space or a plural alone
    labels.py        how many positives each category has in each split
    candidates.py    which images of two splits lie close in CLIP's features
    pictures.py      whether two pictures are one
    duplicates.py    candidates that are one picture, and where their labels contradict each other
    control.py       what the thresholds are worth on the data set itself
    twice.py         the files and sentences of these four
    page.py          all of it as one HTML file
    job.py           runs the parts that are asked for and says what they found

What is found is for people to judge: nothing is changed here, and no finding is an error.
"""
