// Package eventhub runs a namespace of Azure Event Hubs for tests: AMQP 1.0 as
// rhea speaks it, a library for Node.js, with what the service checks of a
// producer: tokens and their signatures, claims, sizes, partition keys. It does
// wrong what it is told to.
//
// Only tests import this package.
package eventhub

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
)

// Namespace is a process that has hubs. It ends with the process that started it.
type Namespace struct {
	Addr      string // host:port, of plain AMQP
	WebSocket string // host:port, of AMQP over WebSockets

	cmd    *exec.Cmd
	mu     sync.Mutex // held while a command is carried out
	input  io.WriteCloser
	output *bufio.Reader
	said   *os.File // what the process had to say
}

// Start starts a namespace without hubs.
func Start() (*Namespace, error) { return start("0", "") }

// StartAt starts one at an address where there was one before. Its hubs, once they
// are made again, hold what the log says, a file that is written as they go.
func StartAt(addr, log string) (*Namespace, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	return start(port, log)
}

func start(port, log string) (*Namespace, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, errors.New("no node on PATH: run `apt-get install nodejs npm`")
	}
	dir, err := install()
	if err != nil {
		return nil, fmt.Errorf("install the event hubs peer: %w", err)
	}
	n := &Namespace{cmd: exec.Command(node, "peer.cjs", port, log)}
	n.cmd.Dir = dir
	if n.said, err = os.CreateTemp("", "eds-eventhub-"); err != nil {
		return nil, err
	}
	n.cmd.Stderr = n.said
	if n.input, err = n.cmd.StdinPipe(); err != nil {
		return nil, errors.Join(err, n.forget())
	}
	output, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, n.forget())
	}
	n.output = bufio.NewReader(output)
	if err := n.cmd.Start(); err != nil {
		return nil, errors.Join(err, n.forget())
	}
	var ports struct{ Plain, Websocket int }
	if err := n.do("listen", nil, &ports); err != nil {
		return nil, errors.Join(err, n.Stop())
	}
	if err := n.do("policies", map[string]any{"keys": policies}, nil); err != nil {
		return nil, errors.Join(err, n.Stop())
	}
	n.Addr, n.WebSocket = loopback(ports.Plain), loopback(ports.Websocket)
	return n, nil
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// Stop ends the process and waits for it.
func (n *Namespace) Stop() error {
	return errors.Join(n.input.Close(), n.cmd.Wait(), n.forget())
}

// AwaitDeath waits until a fault has killed the process.
func (n *Namespace) AwaitDeath() error {
	_ = n.cmd.Wait() // it says that the process was killed
	return n.forget()
}

func (n *Namespace) forget() error { return errors.Join(n.said.Close(), os.Remove(n.said.Name())) }

// do has the process carry out a command.
func (n *Namespace) do(name string, arguments map[string]any, answer any) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	request := map[string]any{"do": name}
	for k, v := range arguments {
		request[k] = v
	}
	line, err := json.Marshal(request)
	if err != nil {
		return err
	}
	if _, err := n.input.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("tell the event hubs peer to %s: %w", name, err)
	}
	line, err = n.output.ReadBytes('\n')
	if err != nil {
		said, _ := os.ReadFile(n.said.Name())
		return fmt.Errorf("the event hubs peer has ended: %w\n%s", err, said)
	}
	var failed struct{ Error string }
	if err := json.Unmarshal(line, &failed); err != nil || failed.Error != "" {
		return fmt.Errorf("the event hubs peer can not %s: %s %w", name, failed.Error, err)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(line, answer)
}

func (n *Namespace) must(t testing.TB, name string, arguments map[string]any, answer any) {
	t.Helper()
	if err := n.do(name, arguments, answer); err != nil {
		t.Fatal(err)
	}
}

// TLS makes the namespace speak AMQP over TLS as well, and returns where. The
// certificate and its key are PEM files.
func (n *Namespace) TLS(t testing.TB, certificate, key string) string {
	t.Helper()
	var answer struct{ Port int }
	n.must(t, "tls", map[string]any{"certificate": certificate, "key": key}, &answer)
	return loopback(answer.Port)
}

// KeyName and Key are of a shared access key that may send to every hub.
const (
	KeyName = "sender"
	Key     = "c2VjcmV0IHdpdGggKyBhbmQgLyBpbiBpdA/+6w=="
)

// ListenKeyName is that of a key, also Key, that may only read.
const ListenKeyName = "listener"

// policy is what a key is good for.
type policy struct {
	Secret string   `json:"secret"`
	Claims []string `json:"claims"`
}

var policies = map[string]policy{KeyName: {Key, []string{"Send", "Listen"}}, ListenKeyName: {Key, []string{"Listen"}}}

// Hub is one event hub.
type Hub struct {
	Name string
	of   *Namespace
}

// Hub returns a hub by its name.
func (n *Namespace) Hub(name string) *Hub { return &Hub{Name: name, of: n} }

// Settings are what a hub is made with.
type Settings struct {
	Partitions int  // 4, where it is 0
	Max        int  // bytes of the largest message; 1 MiB, where it is 0; untold, where it is -1
	Discards   bool // nothing is stored
}

// Make makes a hub, or makes it anew.
func (n *Namespace) Make(t testing.TB, name string, s Settings) *Hub {
	t.Helper()
	if s.Partitions == 0 {
		s.Partitions = 4
	}
	if s.Max == 0 {
		s.Max = 1 << 20
	}
	n.must(t, "hub", map[string]any{"name": name, "partitions": s.Partitions, "max": s.Max, "discards": s.Discards}, nil)
	return n.Hub(name)
}

// Event is an event as it is stored.
type Event struct {
	Partition, Offset int
	Key               string // the partition key
	Events            int    // of the message that it came in
	ID, Type          string
	Properties        map[string]any
	Body              []byte
}

// Stored returns what the hub holds, by partition, in order.
func (h *Hub) Stored(t testing.TB) []Event {
	t.Helper()
	var answer struct{ Events []Event }
	h.of.must(t, "stored", map[string]any{"hub": h.Name}, &answer)
	return answer.Events
}

// Counts are of what has happened to a hub, but for Connections, which are the
// namespace's and open now.
type Counts struct {
	Transfers, Claims, Links, Connections int
	Most                                  int  // messages that were unanswered at a time
	Faulty                                bool // there is a fault left
}

// Counts returns them.
func (h *Hub) Counts(t testing.TB) Counts {
	t.Helper()
	var c Counts
	h.of.must(t, "counts", map[string]any{"hub": h.Name}, &c)
	return c
}

// Fault is what a hub does to messages.
type Fault struct {
	// Kind is reject; detach, of the link; close, of the connection; cut, of the
	// TCP connection; lose, which stores the message and then cuts; silent; die, of
	// the whole process.
	Kind        string `json:"kind"`
	Condition   string `json:"condition"`
	Description string `json:"description"`
	After       int    `json:"after"` // messages that are well first
	Times       int    `json:"times"`
}

// Fail makes the hub do wrong. The zero Fault ends that.
func (h *Hub) Fail(t testing.TB, f Fault) {
	t.Helper()
	if f == (Fault{}) {
		h.set(t, "fault", nil)
		return
	}
	h.set(t, "fault", f)
}

// Refuse makes the hub answer to tokens with a status; 0 ends that.
func (h *Hub) Refuse(t testing.TB, status int) { h.set(t, "refuse", status) }

// Disable makes the hub refuse links.
func (h *Hub) Disable(t testing.TB, disabled bool) { h.set(t, "disabled", disabled) }

// Hold makes the hub answer to no message until n of them wait for that.
func (h *Hub) Hold(t testing.TB, n int) { h.set(t, "hold", n) }

// Accept makes the hub take these tokens of Entra ID.
func (h *Hub) Accept(t testing.TB, tokens ...string) { h.set(t, "tokens", tokens) }

// Expire detaches every link, as the service does when a token has expired.
func (h *Hub) Expire(t testing.TB) {
	t.Helper()
	h.of.must(t, "detach", map[string]any{"hub": h.Name, "condition": "amqp:unauthorized-access"}, nil)
}

// Remove deletes the hub.
func (h *Hub) Remove(t testing.TB) {
	t.Helper()
	h.of.must(t, "remove", map[string]any{"hub": h.Name}, nil)
}

func (h *Hub) set(t testing.TB, name string, value any) {
	t.Helper()
	h.of.must(t, "set", map[string]any{"hub": h.Name, name: value}, nil)
}
