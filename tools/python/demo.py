"""The part of tools/demo that follows the build: compile, train on four ranks, compare with one rank."""
import argparse
import json
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
SSCC, EXAMPLE, WORK = f"{ROOT}/build/sscc", f"{ROOT}/examples/gpt", f"{ROOT}/build/demo"
AGREEMENT = 1e-3  # largest relative difference of a loss; rounding grows along a trajectory
# Containers often run as root and have fewer processors than there are ranks.
ENVIRONMENT = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1",
                   OMPI_MCA_mpi_yield_when_idle="1", OMPI_MCA_btl_vader_single_copy_mechanism="none")


def say(text):
    print(text, flush=True)


def command(*words):
    """Runs a command; its output is shown only where it fails."""
    done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT)
    if done.returncode:
        sys.exit(f"demo: {' '.join(words)}\n{done.stdout}{done.stderr}demo: exit status {done.returncode}")
    return done.stdout


def read_log(path):
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def show(rows, shown, every, last):
    """Prints the rows from number `shown` on that are due; returns how many have been seen."""
    for row in rows[shown:]:
        if row["step"] % every == 0 or row["step"] == last:
            say(f"  step {row['step']:4d}   loss {row['loss']:.4f}   {row['tokens_per_second']:8.0f} tokens/s")
    return max(shown, len(rows))


def train(words, steps, every=0):
    """Runs a training program; returns its log. With `every`, shows a row out of so many as they come."""
    log = f"{WORK}/log.jsonl"
    if os.path.exists(log):
        os.remove(log)
    output = f"{WORK}/output.txt"
    with open(output, "w", encoding="utf-8") as file:
        process = subprocess.Popen([*words, "--data", f"{WORK}/data", "--steps", str(steps), "--log", log], stdout=file, stderr=file, env=ENVIRONMENT)
        shown = 0
        while process.poll() is None:
            time.sleep(0.1)
            shown = show(read_log(log), shown, every, steps - 1) if every else 0
    rows = read_log(log)
    if process.returncode or len(rows) != steps:
        with open(output, encoding="utf-8", errors="replace") as file:
            sys.exit(f"demo: {' '.join(words)}\n{file.read()[-2000:]}demo: exit status {process.returncode}, {len(rows)} of {steps} steps")
    if every:
        show(rows, shown, every, steps - 1)
    return rows


def main():
    parser = argparse.ArgumentParser(prog="tools/demo")
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    begin = time.time()
    shutil.rmtree(WORK, ignore_errors=True)
    os.makedirs(WORK)

    model = [f"{EXAMPLE}/model.onnx", "--train", f"{EXAMPLE}/train.json", "--plan"]
    command("/usr/bin/python3", f"{ROOT}/tools/make_text_data", "-o", f"{WORK}/data", "--steps", str(min(steps, 200)))

    say("Compiling examples/gpt for 4 ranks: tensor 2 x pipeline 2, 1F1B, 4 micro-batches")
    command(SSCC, *model, f"{EXAMPLE}/plan.json", "--target", "cpu", "-o", f"{WORK}/gpt")
    say(f"  done after {time.time() - begin:.1f} s: {os.path.relpath(WORK, ROOT)}/gpt")

    say(f"mpirun -n 4 {os.path.relpath(WORK, ROOT)}/gpt/run --steps {steps}")
    four = train(["mpirun", "-n", "4", f"{WORK}/gpt/run"], steps, every=max(1, steps // 10))

    say("The same steps on one rank: sscc run")
    one = train([SSCC, "run", *model, f"{EXAMPLE}/one_rank.json"], steps)

    differences = [abs(a["loss"] - b["loss"]) / abs(b["loss"]) for a, b in zip(four, one)]
    worst = max(range(steps), key=lambda i: differences[i])
    tenth = max(1, steps // 10)
    first, last = four[0]["loss"], sum(row["loss"] for row in four[-tenth:]) / tenth
    say(f"  loss {first:.3f} -> {last:.3f} (mean of the last {tenth} steps)")
    say(f"  largest relative difference of the losses: {differences[worst]:.1e}, at step {worst}")
    failures = []
    if not all(d < AGREEMENT for d in differences):
        failures.append(f"the losses differ by more than {AGREEMENT:.0e}")
    if steps >= 50 and not last < 0.8 * first:
        failures.append("the loss does not fall")
    if failures:
        sys.exit("demo: " + "; ".join(failures))
    say(f"Four ranks and one rank agree. {time.time() - begin:.0f} s")


if __name__ == "__main__":
    main()
