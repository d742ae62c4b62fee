package eventhub

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/go-amqp"
	"github.com/google/go-cmp/cmp"
)

const audience = "amqps://namespace/hub"

// sign returns a token that a shared access key has signed.
func sign(keyName, key, audience string, expiry time.Time) string {
	escaped, until := url.QueryEscape(audience), fmt.Sprint(expiry.Unix())
	sum := hmac.New(sha256.New, []byte(key))
	_, _ = io.WriteString(sum, escaped+"\n"+until)
	return "SharedAccessSignature sr=" + escaped + "&sig=" + url.QueryEscape(base64.StdEncoding.EncodeToString(sum.Sum(nil))) + "&se=" +
		until + "&skn=" + keyName
}

func TestCheckSignature_NamesTheProblem(t *testing.T) {
	later := time.Now().Add(time.Hour)
	good := sign(KeyName, Key, audience, later)
	for name, c := range map[string]struct{ token, want string }{
		"good":             {good, ""},
		"another prefix":   {strings.TrimPrefix(good, "Shared"), "malformed token"},
		"another key name": {sign("other", Key, audience, later), "no such key"},
		"another key":      {sign(KeyName, "other", audience, later), "invalid signature"},
		"longer expiry":    {strings.Replace(good, "&se=", "&se=1", 1), "invalid signature"},
		"expired":          {sign(KeyName, Key, audience, time.Now().Add(-time.Second)), "expired token"},
		"another hub":      {sign(KeyName, Key, audience+"2", later), "another audience"},
	} {
		if _, got := checkSignature(c.token, audience); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// connect returns a session on which the client may send to the hub.
func connect(t *testing.T, n *Namespace) *amqp.Session {
	t.Helper()
	conn, err := amqp.Dial(t.Context(), "amqp://"+n.Addr, &amqp.ConnOptions{SASLType: amqp.SASLTypeAnonymous()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // the connection may already be cut
	session, err := conn.NewSession(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	sender, err := session.NewSender(t.Context(), tokenNode, nil)
	if err != nil {
		t.Fatal(err)
	}
	receiver, err := session.NewReceiver(t.Context(), tokenNode, &amqp.ReceiverOptions{TargetAddress: "replies"})
	if err != nil {
		t.Fatal(err)
	}
	reply := "replies"
	err = sender.Send(t.Context(), &amqp.Message{
		Properties: &amqp.MessageProperties{MessageID: "1", ReplyTo: &reply}, Value: sign(KeyName, Key, audience,
			time.Now().Add(time.Hour)),
		ApplicationProperties: map[string]any{"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": audience},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := receiver.Receive(t.Context(), nil)
	if err != nil || answer.ApplicationProperties["status-code"] != int32(202) {
		t.Fatalf("the token is answered %v: %v", answer, err)
	}
	return session
}

func newSender(t *testing.T, session *amqp.Session) *amqp.Sender {
	t.Helper()
	sender, err := session.NewSender(t.Context(), "hub", nil)
	if err != nil {
		t.Fatal(err)
	}
	return sender
}

// event returns a message with the given body and partition key.
func event(key any, body string) *amqp.Message {
	m := amqp.NewMessage([]byte(body))
	m.Annotations = amqp.Annotations{"x-opt-partition-key": key}
	return m
}

// batch returns a message that contains the events.
func batch(t *testing.T, key any, events ...*amqp.Message) *amqp.Message {
	t.Helper()
	m := &amqp.Message{Format: batchFormat, Annotations: amqp.Annotations{"x-opt-partition-key": key}}
	for _, e := range events {
		data, err := e.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		m.Data = append(m.Data, data)
	}
	return m
}

func TestHub_ChecksMessages(t *testing.T) {
	n, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	hub := n.Make(t, "hub", Settings{Partitions: 1})
	sender := newSender(t, connect(t, n))
	for name, c := range map[string]struct {
		message *amqp.Message
		want    string // "" if the message is accepted
	}{
		"event":               {event("k", "1"), ""},
		"longest key":         {event(strings.Repeat("😀", 64), "1"), ""},
		"longer key":          {event(strings.Repeat("😀", 64)+"x", "1"), "has 129 UTF-16 code units"},
		"key that is no text": {event(int64(1), "1"), "the partition key is a int64"},
		"batch":               {batch(t, "k", event("k", "1"), event("k", "2")), ""},
		"batch with another key": {
			batch(t, "k", event("k", "1"), event("l", "2")),
			`event 1 has the partition key "l" in a message of "k"`,
		},
		"batch of no messages":   {&amqp.Message{Format: batchFormat, Data: [][]byte{{1}}}, "event 0"},
		"body that is no binary": {&amqp.Message{Value: "text"}, "event 0 has no binary body"},
		"message id of a number": {
			&amqp.Message{Data: [][]byte{{1}}, Properties: &amqp.MessageProperties{MessageID: uint64(1)}},
			"message-id of type uint64",
		},
		"unknown format": {&amqp.Message{Format: 7, Data: [][]byte{{1}}}, "message format 0x7"},
		"property that is a list": {
			&amqp.Message{Data: [][]byte{{1}}, ApplicationProperties: map[string]any{"p": []any{1}}},
			"property p is a amqp.List",
		},
	} {
		before := len(hub.Stored(t))
		err := sender.Send(t.Context(), c.message, nil)
		var refusal *amqp.Error
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (!errors.As(err, &refusal) || refusal.Condition != "com.microsoft:argument-error" ||
			!strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		case (len(hub.Stored(t)) > before) != (c.want == ""):
			t.Errorf("%s: %d events are stored", name, len(hub.Stored(t))-before)
		}
	}
	if err := n.Stop(); err != nil {
		t.Error(err)
	}
}

func TestHub_StoresWhatIsSent(t *testing.T) {
	n, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	hub := n.Make(t, "hub", Settings{Partitions: 1})
	sender := newSender(t, connect(t, n))
	contentType := "text/plain"
	full := event("k", "2")
	full.Properties = &amqp.MessageProperties{MessageID: "id", ContentType: &contentType}
	full.ApplicationProperties = map[string]any{"p": "v"}
	if err := sender.Send(t.Context(), batch(t, "k", event("k", "1"), full), nil); err != nil {
		t.Fatal(err)
	}
	want := []Event{
		{Key: "k", Events: 2, Body: []byte("1")},
		{Offset: 1, Key: "k", Events: 2, ID: "id", Type: "text/plain", Properties: map[string]any{"p": "v"}, Body: []byte("2")},
	}
	if diff := cmp.Diff(want, hub.Stored(t)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Counts{Transfers: 1, Claims: 1, Links: 1, Most: 1}, hub.Counts(t)); diff != "" {
		t.Error(diff)
	}
	if err := n.Stop(); err != nil {
		t.Error(err)
	}
}

// TestNamespace_DiesAndKeepsItsLog checks that a namespace that dies loses only the message that
// was not stored.
func TestNamespace_DiesAndKeepsItsLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	n, err := StartAt("127.0.0.1:0", path)
	if err != nil {
		t.Fatal(err)
	}
	hub := n.Make(t, "hub", Settings{})
	sender := newSender(t, connect(t, n))
	hub.Fail(t, Fault{Kind: "die", After: 1, Times: 1})
	if err := sender.Send(t.Context(), event("k", "1"), nil); err != nil {
		t.Fatal(err)
	}
	before := hub.Stored(t)
	if err := sender.Send(t.Context(), event("k", "2"), nil); err == nil {
		t.Error("a message is taken by a namespace that dies")
	}
	if err := n.AwaitDeath(); err != nil {
		t.Error(err)
	}
	n, err = StartAt(n.Addr, path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, n.Make(t, "hub", Settings{}).Stored(t)); diff != "" {
		t.Error(diff)
	}
	if err := n.Stop(); err != nil {
		t.Error(err)
	}
}

func TestNamespace_StopReportsViolations(t *testing.T) {
	n, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", n.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	// The answer ends with the performative close. The violation is recorded after that.
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatal(err)
	}
	if err := n.Stop(); err == nil || !strings.Contains(err.Error(), `the protocol header is "GET / HT"`) {
		t.Errorf("the namespace ends with %v", err)
	}
}
