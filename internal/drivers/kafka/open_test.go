package kafka

import (
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// TestDriver_BorrowsInAnyCase: HQ must not be able to use the credentials of this machine through
// another spelling of an option.
func TestDriver_BorrowsInAnyCase(t *testing.T) {
	for query, want := range map[string]string{
		"auth=aws-msk-iam": "auth=aws-msk-iam", "auth=AWS-MSK-IAM": "auth=aws-msk-iam", "TOKEN-FILE=/x": "option token-file",
		"auth=plain": "",
	} {
		target := &url.URL{Scheme: "kafka", Host: "h", Path: "/t", RawQuery: query}
		if got := Driver().Borrows(target); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}

// TestOpen_RejectsBadURLs checks that each error says what to change. It does not connect to a
// broker.
func TestOpen_RejectsBadURLs(t *testing.T) {
	for raw, want := range map[string]string{
		"kafka://h:9092":          "names no topic",
		"kafka:///topic":          "should name brokers like",
		"kafka://h:9092,:1/topic": "should name brokers like",
		"kafka://h/a/b":           "slash",
		"kafka://h/t%C3%B6pic":    "letters, digits and . _ -",
		"kafka://h/.":             "letters, digits and . _ -",
		"kafka://h/{{.tabel}}": `topic template: it names a field that no change has; ` +
			`did you mean "table"?`,
		"kafka://h/{{.table":                                        "topic template",
		"kafka://h/one?topic=two":                                   "leave one out",
		"kafka://h/t#x":                                             "write # as %23",
		"kafka://h/t?key=rows":                                      "event or row",
		"kafka://h/t?format=avro":                                   "eds, flat or debezium",
		"kafka://h/t?compress=zst":                                  "zstd, snappy, lz4, gzip or none",
		"kafka://h/t?linger=5":                                      "a duration like",
		"kafka://h/t?timeout=1ms":                                   "from 100ms to 1h",
		"kafka://h/t?transactional=yes":                             "true or false",
		"kafka://h/t?headers=2":                                     "true or false",
		"kafka://h/t?create-topics=maybe":                           "true or false",
		"kafka://h/t?partitions=3":                                  "needs create-topics=true",
		"kafka://h/t?create-topics=true&partitions=0":               "from 1 to 100000",
		"kafka://h/t?create-topics=true&replication=x":              "from 1 to 1000",
		"kafka://h/t?acks=1":                                        `unknown option "acks"`,
		"kafka://h/t?tls=yes":                                       "false, true or skip-verify",
		"kafka://h/t?tls-ca=/nope":                                  "need tls=true",
		"kafka://h/t?tls=true&tls-ca=/nope":                         "read the file that option tls-ca names: no such file",
		"kafka://h/t?tls=true&tls-cert=/nope":                       "go together",
		"kafka://h/t?tls=true&tls-cert=/n&tls-key=/n":               "read the file that option tls-cert names: no such file",
		"kafka://h/t?auth=kerberos":                                 "plain, scram-sha-256",
		"kafka://h/t?auth=scram-sha-256":                            "needs a user and a password",
		"kafka://HIDDEN@h/t":                                        "needs a user and a password",
		"kafka://h/t?token=HIDDEN":                                  "needs auth=oauthbearer",
		"kafka://h/t?auth=oauthbearer":                              "token, token-file and token-url",
		"kafka://h/t?auth=oauthbearer&token-file=/nope":             "read the file that option token-file names: no such file",
		"kafka://u:HIDDEN@h/t?auth=oauthbearer&token-url=http://x/": "https://",
		"kafka://h/t?auth=oauthbearer&token-url=https://x/":         "client id and secret",
		"kafka://h/t?auth=aws-msk-iam":                              "needs tls=true",
		"kafka://h/t?auth=aws-msk-iam&tls=true":                     "needs brokers of MSK",
		"kafka://AK@b-1.x.kafka.eu-west-1.amazonaws.com/t?auth=aws-msk-iam&tls=true": "or neither",
	} {
		_, err := tryOpen(t, raw, env)
		if err == nil || fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "HIDDEN") {
			t.Errorf("%s: %v, want %q", raw, err, want)
		}
	}
}

func TestParseBrokers_KeepsTheirOrder(t *testing.T) {
	for list, want := range map[string]string{
		"a": "a:9092", "a,b:1": "a:9092 b:1", "a:9092,b:9093,c:9094": "a:9092 b:9093 c:9094", "[::1]:9092": "[::1]:9092",
		"[::1],10.0.0.1": "[::1]:9092 10.0.0.1:9092",
	} {
		got, err := parseBrokers(list)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %q, %v", list, got, err)
		}
	}
}

func TestURLOf_BuildsTheURL(t *testing.T) {
	for _, c := range []struct {
		host, port, topic string
		want              string // the URL, or the names of the invalid fields
	}{
		{"broker.example.com", "9093", "eds", "kafka://broker.example.com:9093/eds"},
		{" broker ", "", " eds.changes ", "kafka://broker:9092/eds.changes"},
		{"::1", "9092", "t", "kafka://[::1]:9092/t"},
		{"h", "9092", "eds.{{.table}}", "kafka://h:9092/eds.%7B%7B.table%7D%7D"},
		{"h:1", "", "t", "Hostname"},
		{"kafka://h", "", "t", "Hostname"},
		{"a,b", "", "t", "Hostname"},
		{"h", "x", "a b", "Port Topic"},
		{"h", "70000", "", "Topic Port"},
	} {
		got, problems := buildURL(map[string]string{"Hostname": c.host, "Port": c.port, "Topic": c.topic})
		var wrong []string
		for _, p := range problems {
			wrong = append(wrong, p.Field)
		}
		if got+strings.Join(wrong, " ") != c.want {
			t.Errorf("%+v: %q, %+v", c, got, problems)
		}
	}
}

func TestOpen_ReportsMissingTopicsAndBrokers(t *testing.T) {
	cluster := newCluster(t)
	addr := cluster.ListenAddrs()[0]
	_, err := tryOpen(t, "kafka://"+addr+"/missing", env)
	if fault.Of(err) != fault.Fatal ||
		!strings.Contains(err.Error(), `topic "missing": the topic does not exist; create it, or add create-topics=true`) {
		t.Errorf("a missing topic: %v", err)
	}
	s, err := tryOpen(t, "kafka://"+addr+"/made?create-topics=true&partitions=2&replication=1", env)
	if err != nil {
		t.Fatalf("a topic that may be created: %v", err)
	}
	if n := len(cluster.PartitionInfos("made")); n != 0 {
		t.Errorf("opening created it with %d partitions", n)
	}
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 3))
	if n := len(cluster.PartitionInfos("made")); n != 2 {
		t.Errorf("it was created with %d partitions, want 2", n)
	}
	if _, err := tryOpen(t, "kafka://"+addr+"/odd?create-topics=true&replication=100", env); err == nil ||
		!strings.Contains(err.Error(), `create topic "odd"`) {
		t.Errorf("a topic that cannot be created: %v", err)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	_, err = tryOpen(t, "kafka://"+closed.Addr().String()+"/topic?timeout=500ms", env)
	if err == nil || fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), closed.Addr().String()) {
		t.Errorf("no broker: %v: %v", fault.Of(err), err)
	}
}

func TestApply_ReportsADeletedTopic(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	raw := newTopic(t, cluster, "topic", 1)
	s := mustOpen(t, "kafka://"+cluster.ListenAddrs()[0]+"/{{.table}}")
	err := s.Apply(t.Context(), sinktest.NumberedBatch(t, 1, 3))
	if fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), `topic "order": the topic does not exist`) {
		t.Errorf("a table whose topic is missing: %v: %v", fault.Of(err), err)
	}
	s = mustOpen(t, raw)
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 3))
	if err := cluster.DeleteTopic("topic"); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(t.Context(), sinktest.NumberedBatch(t, 4, 6)); fault.Of(err) != fault.Transient ||
		!strings.Contains(err.Error(), "create it") {
		t.Errorf("a topic that was deleted: %v: %v", fault.Of(err), err)
	}
}

func TestApply_RecreatesADeletedTopicIfAllowed(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	s := mustOpen(t, "kafka://"+cluster.ListenAddrs()[0]+"/topic?create-topics=true&partitions=1")
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 3))
	if err := cluster.DeleteTopic("topic"); err != nil {
		t.Fatal(err)
	}
	sinktest.ApplyWithin(t, 20, s, sinktest.NumberedBatch(t, 4, 6))
	wantOnce(t, cluster.ListenAddrs()[0], "topic", 4, 6)
}

func FuzzURL(f *testing.F) {
	for _, seed := range []string{
		"kafka://a:1,b:2/t", "kafka://u:p@h/{{.table}}?key=row&format=flat",
		"kafka://h/t?auth=oauthbearer&token=x&linger=1s", "kafka://[::1]/{{index .key 1}}",
	} {
		f.Add(seed)
	}
	e := sinktest.Numbered(f, 1)
	f.Fuzz(func(t *testing.T, raw string) {
		target, err := sink.ParseURL(raw, func(string) (string, bool) { return "", false })
		if err != nil || strings.Contains(raw, "-file") || strings.Contains(raw, "tls-") {
			return // a fuzzer must not choose files to read
		}
		c, err := parse(target)
		if err != nil {
			return
		}
		for _, broker := range c.brokers {
			if host, port, err := net.SplitHostPort(broker); err != nil || host == "" || port == "" {
				t.Errorf("broker %q of %q", broker, raw)
			}
		}
		topic, err := c.topic.Of(e, make(map[string]string))
		if err != nil {
			if fault.Of(err) != fault.Poison {
				t.Errorf("topic of %q: %v", raw, err)
			}
			return
		}
		if topic == "" || len(topic) > maxTopic || legal(topic) != topic {
			t.Errorf("topic %q of %q", topic, raw)
		}
	})
}
