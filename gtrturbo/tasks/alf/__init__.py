"""ALFWorld: household games in words, the written ones and the real ones, and the engines that play them."""
