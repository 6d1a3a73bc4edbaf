"""The two hooks into Flower: `mod.press_mod` on clients, `grid.PressGrid` on the server."""
