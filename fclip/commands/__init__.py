"""What the `fclip` command can do, a module for each kind of thing it works on; `fclip.cli` puts them together."""
