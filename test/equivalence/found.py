#!/usr/bin/python3
"""What random plans have found, shrunk (found/NAME: a model, a plan, a recipe), goes through all passes and is accepted by the checkers.

    test/equivalence/found.py build/sscc-opt [NAME ...]
"""
import os
import subprocess
import sys

FOUND = f"{os.path.dirname(os.path.realpath(__file__))}/found"


def main():
    failed = 0
    for name in sys.argv[2:] or sorted(os.listdir(FOUND)):
        words = [sys.argv[1], "model.txt", "--plan", "plan.json", "--train", "recipe.json", "--passes", "differentiate.."]
        done = subprocess.run([os.path.abspath(words[0]), *words[1:]], cwd=f"{FOUND}/{name}", capture_output=True, text=True, check=False)
        failed += done.returncode != 0
        if done.returncode:
            print(f"FAILED {name}: exit status {done.returncode}\n{done.stderr}")
    print(f"{failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
