"""A process of the tests that may lose privileges or system calls before it starts a sandbox of its own.

Run with a JSON object: `user` (a user id to become), `denied` (system calls to refuse),
`unknown` (let the processor seem to be one without a table), `minimum`, `jobs` (program,
tests and limits), `wait` (say "ready" and hang with a program running). Prints one JSON object.
"""

import ctypes
import json
import os
import sys
import time
import warnings

from trivium.sandbox import Job, Limits, Sandbox, SandboxError
from trivium.sandbox.jail import seccomp, syscalls


def main() -> None:
    order = json.loads(sys.argv[1])
    if order.get("denied"):
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.install(seccomp.assemble(seccomp.deny_filter(order["denied"])))
    if order.get("user"):
        os.setgroups([])
        os.setresgid(order["user"], order["user"], order["user"])
        os.setresuid(order["user"], order["user"], order["user"])
    if order.get("unknown"):
        linux32 = 8
        ctypes.CDLL(None).personality(linux32)
    warnings.simplefilter("ignore")
    try:
        with Sandbox(workers=2, minimum=order.get("minimum", "isolated")) as sandbox:
            if order.get("wait"):
                print("ready", flush=True)
                sandbox.run(f"import time\n{order['wait']}", ["pass"], limits=Limits(wall_seconds=60, cpu_seconds=60))
                time.sleep(60)
            jobs = [Job(program, tests, limits=Limits(**limits)) for program, tests, limits in order["jobs"]]
            results = sandbox.run_many(jobs)
            found = {
                "level": sandbox.level,
                "why": [str(finding) for finding in sandbox.why],
                "verdicts": [result.verdict for result in results],
                "tests": [[test.message for test in result.tests] for result in results],
            }
    except SandboxError as error:
        found = {"error": str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
