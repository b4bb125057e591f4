"""assign + eliminate + adjust: from a trained network to one whose workers hardly need each other."""
