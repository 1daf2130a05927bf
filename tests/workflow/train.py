"""Prints an ESPnet training's lines and resumes from its checkpoint: a training of seconds.

It stops and waits in epoch 3 as long as ``hold`` is in the working directory.
"""

import sys
import time
from pathlib import Path

folder, last = Path(sys.argv[1]), int(sys.argv[2])
folder.mkdir(exist_ok=True)
checkpoint = folder / "checkpoint"
done = int(checkpoint.read_text()) if checkpoint.exists() else 0
for epoch in range(done + 1, last + 1):
    print(f"INFO: {epoch}/{last}epoch started", flush=True)
    while epoch == 3 and Path("hold").exists():
        time.sleep(0.05)
    began = time.process_time()
    while time.process_time() < began + 0.1:
        pass
    checkpoint.write_text(str(epoch))
    with (folder / "epochs").open("a") as stream:
        stream.write(f"{epoch} ")
    print(f"INFO: {epoch}epoch results: [train] loss=1, [valid] cer_ctc=0.125", flush=True)
(folder / "best").touch()
