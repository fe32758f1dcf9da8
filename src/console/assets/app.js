const said = document.getElementById("said");
const stream = new EventSource("stream");
stream.onmessage = (event) => { said.textContent = `${event.data}\n${said.textContent}`.slice(0, 20000); };
