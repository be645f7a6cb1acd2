"""`python -m zwicky`, and so `torchrun -m zwicky`."""

from zwicky.cli import main

if __name__ == "__main__":
    main()
