"""What drift looks like: pictures, and one HTML file that says what moved, where and what to do.

`pictures` are plain numbers, made from a result; `plots` draws them; `html` writes them into a
document beside words and tables. No row of data gets in: counts, quantiles and evidence only.
"""
