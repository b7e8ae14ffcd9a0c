"""examples/agent.py, and what docs/from-codeinterpreter-api.md says of it, with a model that is told what to say."""

import io
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image
from support.server import ROOT, Server

CSV = "a,b\n1,2\n3,4\n"


class Model(ThreadingHTTPServer):
    """Answers each request for a completion with the next of `says`: text, or a tool's name and arguments."""

    def __init__(self):
        self.says: list = []
        self.asked: list[dict] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(404)

    def do_POST(self):
        if not self.path.endswith("/chat/completions"):
            return self.send_error(404)
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        match self.server.says.pop(0):
            case str(text):
                delta = {"content": text}
            case (name, arguments):
                function = {"name": name, "arguments": json.dumps(arguments)}
                delta = {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": function}]}
        reason = "tool_calls" if "tool_calls" in delta else "stop"
        chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def world():
    """The model, and the example's module with a server to talk to."""
    with Model() as model, pytest.MonkeyPatch.context() as patch:
        threading.Thread(target=model.serve_forever).start()
        with Server(f"--model-url={model.url}", "--model=scripted") as server:
            patch.setenv("KERNELBOX_ENDPOINT", server.endpoint)
            patch.setenv("KERNELBOX_API_KEY", server.key)
            patch.syspath_prepend(str(ROOT / "examples"))
            import agent

            yield model, agent
        model.shutdown()


def python(code: str):
    return "python", {"code": code}


def test_a_dataset_goes_in_and_a_workbook_comes_out(world, tmp_path, monkeypatch, capsys):
    model, example = world
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").write_text(CSV)
    code = "import pandas as pd; pd.read_csv('data.csv').to_excel('data.xlsx', index=False); print('done')"
    model.says = [python(code), "It is data.xlsx."]
    monkeypatch.setattr(sys, "argv", ["agent.py", "Convert this dataset to excel", "data.csv"])
    example.main()
    assert (tmp_path / "data.xlsx").read_bytes().startswith(b"PK")
    said = capsys.readouterr().out
    assert code in said and "done\n" in said and "It is data.xlsx." in said and "saved data.xlsx" in said


def test_a_session_goes_on_by_its_id_and_shows_pictures(world):
    model, example = world
    model.says = [python("x = 20"), "ok"]
    first = example.Agent(system_prompt_suffix="Be brief.")
    first.ask("x is 20")
    assert model.asked[-1]["messages"][0]["content"].endswith("Be brief.")
    draw = "from PIL import Image\ndisplay(Image.new('RGB', (x, x), 'red'))"
    model.says = [python(draw), "Here it is."]
    again = example.Agent(first.id)
    completed, pictures = again.ask("Draw a red square, x wide")
    assert completed.answer == "Here it is." and list(completed.code_log) == [draw]
    assert [Image.open(io.BytesIO(picture)).size for picture in pictures] == [(20, 20)]
    again.stop()


def test_a_function_of_the_program_is_a_tool(world):
    model, example = world

    def salary(name: str) -> int:
        """Looks up a salary."""
        return {"Ada": 120}[name]

    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    agent = example.Agent(tools={salary: schema})
    model.says = [("salary", {"name": "Ada"}), ("salary", {"name": "Bob"}), "Ada earns 120; Bob is unknown."]
    completed, _ = agent.ask("Who earns what?")
    agent.stop()
    assert completed.answer == "Ada earns 120; Bob is unknown."
    declared = [tool["function"] for tool in model.asked[-1]["tools"] if tool["function"]["name"] == "salary"]
    assert declared == [{"name": "salary", "description": "Looks up a salary.", "parameters": schema}]
    results = [message["content"] for message in model.asked[-1]["messages"] if message["role"] == "tool"]
    assert "120" in results[0] and "Bob" in results[1]
