"""The naive way, for the ladder: transformers' generate(), one after the other. Runs in an environment of its own.

`naive.py MODEL.gguf DTYPE` reads a job of JSON on standard input and answers one line of JSON. With `--serve PORT` it
is a FastAPI server with a lock around the model, as one writes it on the first day. The weights are the GGUF file's,
dequantised, so that every rung computes with the same numbers. Imports nothing of ours.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


class Naive:
    def __init__(self, file: Path, dtype: str) -> None:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0))))
        place = {"gguf_file": file.name}
        self._tokenizer = AutoTokenizer.from_pretrained(file.parent, **place)
        model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=getattr(torch, dtype), **place)
        self._model = model.eval()
        self._lock = threading.Lock()

    def answer(self, messages: list[dict[str, str]], max_tokens: int) -> dict[str, object]:
        """ChatML as such, greedy: what our engines are asked."""
        turns = "".join(f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in messages)
        ids = self._tokenizer(turns + "<|im_start|>assistant\n", return_tensors="pt", add_special_tokens=False)
        with self._lock, torch.inference_mode():
            made = self._model.generate(**ids, max_new_tokens=max_tokens, do_sample=False)
        prompt = ids["input_ids"].shape[1]
        said = made[0][prompt:]
        return {
            "text": self._tokenizer.decode(said, skip_special_tokens=True),
            "prompt_tokens": prompt,
            "tokens": len(said),
        }


def run(naive: Naive, job: dict[str, object]) -> dict[str, object]:
    """`timed`: conversations to measure after one to warm up; `texts`: those whose answers are wanted."""
    timed, texts = job["timed"], job["texts"]
    naive.answer(timed[0], job["max_tokens"])
    began, cpu = time.perf_counter(), time.process_time()
    answers = [naive.answer(one, job["max_tokens"]) for one in timed[1:]]
    wall, used = time.perf_counter() - began, time.process_time() - cpu
    return {
        "requests": len(answers),
        "wall_s": wall,
        "cpu_s": used,
        "tokens": sum(one["tokens"] for one in answers),
        "prompt_tokens": answers[0]["prompt_tokens"],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "texts": [naive.answer(one, job["text_tokens"])["text"] for one in texts],
    }


def serve(naive: Naive, port: int) -> None:
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI()

    @app.post("/v1/chat/completions")
    def chat(body: dict) -> dict:
        made = naive.answer(body["messages"], body["max_tokens"])
        return {
            "choices": [{"message": {"role": "assistant", "content": made["text"]}}],
            "usage": {"prompt_tokens": made["prompt_tokens"], "completion_tokens": made["tokens"]},
        }

    print("ready", flush=True)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def main() -> None:
    naive = Naive(Path(sys.argv[1]), sys.argv[2])
    if sys.argv[3:4] == ["--serve"]:
        serve(naive, int(sys.argv[4]))
    else:
        print(json.dumps(run(naive, json.load(sys.stdin))))


if __name__ == "__main__":
    main()
