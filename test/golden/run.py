#!/usr/bin/python3
"""Golden tests: a file holds a command, its input files and everything it prints.

    test/golden/run.py --sscc build/sscc [FILE ...]            compare (default: every *.test below this folder)
    test/golden/run.py --sscc build/sscc --update [FILE ...]   write what the commands print now into the files

A file is a line that says what it shows, then sections, each opened by `=== NAME`:

    === run             the command lines; a file that a command wrote is shown with `cat FILE`
    === plan.json       a file, written into the empty folder in which the commands run; any number of these
    === exit 1          the exit status of the last command; absent: 0
    === stdout          what the commands print, if anything
    === stderr

`sscc` and `sscc-opt` are the programs under test; %models, %small and %plans stand for test/data/models, test/data/small and plans, in
command lines and in what is printed. Nothing else is replaced. A file named fail_* shows a refusal: its last exit status is not 0 and it prints a
diagnostic.
"""
import argparse
import difflib
import glob
import os
import shlex
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PLACES = {"%models": f"{ROOT}/test/data/models", "%small": f"{ROOT}/test/data/small", "%plans": f"{ROOT}/plans"}
RESULTS = ("exit", "stdout", "stderr")


def read_sections(path):
    """(the file's first lines, [(section name, text)])"""
    title, sections = "", []
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.startswith("=== "):
                sections.append([line[4:].strip(), ""])
            elif sections:
                sections[-1][1] += line
            else:
                title += line
    return title, [tuple(s) for s in sections]


def run_line(line, folder, binaries):
    for name, place in PLACES.items():
        line = line.replace(name, place)
    words = shlex.split(line)
    if words[0] == "cat":  # dumps are named by their step; passes that come and go change the numbers
        words = ["cat", *(path for word in words[1:] for path in glob.glob(os.path.join(folder, word)) or [word])]
    else:
        words[0] = os.path.join(binaries, words[0])
    environment = dict(os.environ, LC_ALL="C", NO_COLOR="1")
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, errors="replace", env=environment, timeout=120)


def result_of(sections, binaries):
    """What the commands of a test do now, as sections."""
    status, streams = 0, {"stdout": "", "stderr": ""}
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        for name, text in sections:
            if name != "run" and name.split()[0] not in RESULTS:
                with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                    file.write(text)
        lines = [line for name, text in sections if name == "run" for line in text.splitlines() if line.strip()]
        for line in lines:
            done = run_line(line, folder, binaries)
            status = done.returncode
            for stream, text in (("stdout", done.stdout), ("stderr", done.stderr)):
                for name, place in [*PLACES.items(), ("%work", folder)]:
                    text = text.replace(place, name)
                streams[stream] += text
    result = [(f"exit {status}", "")] if status else []
    return result + [(name, text if text.endswith("\n") else text + "\n") for name, text in streams.items() if text]


def written(title, sections):
    return title + "".join(f"=== {name}\n{text}" for name, text in sections)


def problem_of(path, result):
    """Why a result cannot be the expected one of this file, whatever the file says; empty: it can."""
    status = next((name for name, _ in result if name.startswith("exit")), "exit 0")
    printed = "".join(text for _, text in result)
    if os.path.basename(path).startswith("fail_"):
        if status == "exit 0":
            return "a fail_ test must be refused, and was not"
        if not any(word in printed for word in ("error:", '"error"', "sscc", "not expected")):
            return "a refusal prints why"
    elif status != "exit 0":
        return f"{status}: only a fail_ test may fail"
    if "bug:" in printed or status == "exit 70":
        return f"{status}: a bug of ours is no expected result"
    return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sscc", required=True, help="the program under test; sscc-opt lies beside it")
    parser.add_argument("--update", action="store_true", help="write the results into the files")
    parser.add_argument("files", nargs="*")
    arguments = parser.parse_args()
    binaries = os.path.dirname(os.path.abspath(arguments.sscc))
    files = arguments.files or sorted(glob.glob(f"{HERE}/**/*.test", recursive=True))
    failed = changed = 0
    for path in files:
        title, sections = read_sections(path)
        given = [(name, text) for name, text in sections if name.split()[0] not in RESULTS]
        result = result_of(given, binaries)
        now = written(title, given + result)
        before = written(title, sections)
        problem = problem_of(path, result)
        label = os.path.relpath(path, HERE)
        if arguments.update and not problem:
            changed += now != before
            with open(path, "w", encoding="utf-8") as file:
                file.write(now)
        elif problem or now != before:
            failed += 1
            print(f"FAILED {label}{': ' + problem if problem else ''}")
            sys.stdout.writelines(line if line.endswith("\n") else line + "\n" for line in
                                  list(difflib.unified_diff(before.splitlines(True), now.splitlines(True), "expected", "now"))[:200])
    if arguments.update:
        print(f"{len(files)} golden tests, {changed} rewritten, {failed} cannot be")
    else:
        print(f"{len(files)} golden tests, {failed} failed; --update rewrites them")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
