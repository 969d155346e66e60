"""`python -m searchdb` is `searchdb`."""

from searchdb.cli import main

if __name__ == "__main__":
    main()
