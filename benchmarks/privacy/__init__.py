"""The area `privacy`: what a budget buys, what keeping it costs, what checking it takes."""
