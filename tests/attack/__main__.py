"""The command line of the attacks."""

import argparse
import sys

from .books import Books
from .case import Failure, Skipped, Target, run
from .cases import CASES
from .client import Client
from .process import Process


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/attack", description="Runs attacks against a running gateway.")
    parser.add_argument("host", help="an IP address")
    parser.add_argument("port", type=int)
    parser.add_argument("--pid", type=int, help="the gateway's process, to be checked too")
    parser.add_argument("--admin", help="URL of a ringway's admin endpoint: its books are checked")
    parser.add_argument("--authority", default="localhost", help="of the probe's requests")
    parser.add_argument("--path", default="/", help="of the probe's requests; its body is constant")
    parser.add_argument("--large-path", help="path of a body of many MiB, which D34 does not read")
    parser.add_argument("--upload-path", help="path that takes a body, which D33 sends slowly")
    parser.add_argument("--full", action="store_true", help="run the long forms")
    parser.add_argument("--only", default="", help="names of cases, such as D01,D02")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    names = [name for name in given.only.upper().split(",") if name] or list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        sys.exit(f"scripts/attack: no case is called {', '.join(unknown)}: {' '.join(CASES)}")
    client = Client(given.host, given.port, given.authority, given.path)
    books = Books(given.admin) if given.admin else None
    worker_count = books.worker_count() if books else 1
    process = Process(given.pid, given.full, worker_count) if given.pid else None
    target = Target(given.host, given.port, client, process, books, given.full, given.seed,
                    given.large_path, given.upload_path)
    failed, skipped = [], []
    for name in names:
        case = CASES[name]
        try:
            verdict, text = "passed", run(case, target)
        except Failure as failure:
            verdict, text = "FAILED", str(failure)
            failed.append(name)
        except Skipped as reason:
            verdict, text = "skipped", str(reason)
            skipped.append(name)
        print(f"{name:4} {verdict}  {case.title}: {text}", flush=True)
    passed_count = len(names) - len(failed) - len(skipped)
    print(f"{passed_count} passed, {len(failed)} failed {' '.join(failed)}".rstrip())
    if skipped:
        print(f"{len(skipped)} skipped {' '.join(skipped)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
