"""A SLURM of one machine: sbatch, srun, sacct and scancel as small scripts, enough for submitit's own SLURM executor.

Arrays are started at once, every job in a process group of its own; sacct knows RUNNING, COMPLETED and FAILED.
"""

import os
import sys
from pathlib import Path

SCRIPT = """#!{python}
import json, os, re, signal, subprocess, sys, time
from pathlib import Path
state = Path({state!r})
name, words = Path(sys.argv[0]).name, sys.argv[1:]

def alive(pid):
    try:
        return Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

if name == "sbatch":
    text = Path(words[-1]).read_text()
    (state / "script.sh").write_text(text)
    number = str(1000 + len(list(state.glob("*.job"))))
    array = re.search(r"--array=0-([0-9]+)", text)
    for index in range(int(array[1]) + 1) if array else [None]:
        job = number if index is None else f"{{number}}_{{index}}"
        env = os.environ | {{"SLURM_JOB_ID": number, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}}
        env |= {{"SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1", "FAKE_JOB": job}}
        env |= {{}} if index is None else {{"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(index)}}
        process = subprocess.Popen(["bash", words[-1]], env=env, start_new_session=True, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (state / f"{{job}}.job").write_text(str(process.pid))
    print(f"Submitted batch job {{number}}")
elif name == "srun":
    output = words[words.index("--output") + 1].replace("%A_%a", os.environ["FAKE_JOB"]).replace("%t", "0")
    output = output.replace("%j", os.environ["FAKE_JOB"])
    command = words[words.index("--error") + 2:]
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with open(output, "a") as file:
        code = subprocess.call(command, stdout=file, stderr=file)
    (state / f"{{os.environ['FAKE_JOB']}}.code").write_text(str(code))
    sys.exit(code)
elif name == "sacct":
    print("JobID|State|NodeList")
    for path in sorted(state.glob("*.job")):
        code = state / f"{{path.stem}}.code"
        ended = "COMPLETED" if code.exists() and code.read_text() == "0" else "FAILED"
        print(f"{{path.stem}}|{{'RUNNING' if alive(int(path.read_text())) else ended}}|here")
elif name == "scancel":
    os.killpg(int((state / f"{{words[0]}}.job").read_text()), signal.SIGTERM)
"""


def install(folder: Path) -> Path:
    """Put the scripts into folder/bin. -> folder/state, where script.sh is the last one that was submitted."""
    (folder / "bin").mkdir(parents=True)
    (folder / "state").mkdir()
    for name in ("sbatch", "srun", "sacct", "scancel"):
        path = folder / "bin" / name
        path.write_text(SCRIPT.format(python=sys.executable, state=str(folder / "state")))
        path.chmod(0o755)
    return folder / "state"


def on_path(folder: Path) -> str:
    """PATH with the scripts first."""
    return f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
