"""`python -m redraft`, and `accelerate launch -m redraft`: the same as the command `redraft`."""

from redraft.cli import main

if __name__ == "__main__":
    main()
