package eventhub

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	peer "github.com/shopmonkeyus/eds/internal/testing/peers/eventhub"
)

// TestOpen_RejectsBadURLs checks that each error says what to change. It does not connect to Azure.
func TestOpen_RejectsBadURLs(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(notPEM, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	const good = "eventhub://h/;SharedAccessKeyName=n;SharedAccessKey=HIDDEN=="
	for raw, want := range map[string]string{
		"eventhub:///;SharedAccessKeyName=n;SharedAccessKey=HIDDEN;EntityPath=e":         "begin with the namespace's host name",
		"eventhub://h_%C3%BC/;SharedAccessKeyName=n;SharedAccessKey=HIDDEN;EntityPath=e": "begin with the namespace's host name",
		"eventhub://n:HIDDEN@h/;EntityPath=e":                                            "should read eventhub://",
		good:                                                                             "names no hub",
		good + ";EntityPath=a/b":                                                         "slash",
		good + ";EntityPath=-x":                                                          "letters, digits and . _ -",
		good + ";EntityPath=e#x":                                                         "write # as %23",
		good + ";EntityPath=e?hub=f":                                                     "leave one out",
		good + ";EntityPath=e;SharedAccesKey=HIDDEN":                                     "did you mean SharedAccessKey?",
		good + ";EntityPath=e;HIDDEN":                                                    "HIDDEN",
		good + ";EntityPath=e;a+b/c==":                                                   "unknown name; known ones are",
		good + ";EntityPath=e;UseDevelopmentEmulator=maybe":                              "true or false",
		"eventhub://x.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey=HIDDEN;EntityPath=e;" +
			"UseDevelopmentEmulator=true": "leaves encryption out",
		"eventhub://h/;SharedAccessKeyName=n;EntityPath=e":                                         "no SharedAccessKey",
		"eventhub://h/;SharedAccessKey=HIDDEN;EntityPath=e":                                        "no SharedAccessKeyName",
		"eventhub://h/SharedAccessKeyName=n;SharedAccessKey=HIDDEN;EntityPath=e":                   "lacks a ;",
		"eventhub://h/;EntityPath=SharedAccessKey=HIDDEN":                                          "has a =",
		"eventhub://h/;SharedAccessSignature=SharedAccessSignature%20sr=x&sig=HIDDEN;EntityPath=e": "expires; use SharedAccessKeyName",
		"eventhub://h/e":                "has no credentials",
		"eventhub://h/e?hub={{.tabel}}": "leave one out",
		good + "?hub={{.tabel}}": `hub template: it names a field that no change has; ` +
			`did you mean "table"?`,
		good + "?hub={{.table":                                              "hub template",
		good + ";EntityPath=e?transport=amqps":                              "amqp or websockets",
		good + ";EntityPath=e?proxy=http://p":                               "needs transport=websockets",
		good + ";EntityPath=e?transport=websockets&proxy=p:1":               "like http://proxy:8080",
		good + ";EntityPath=e?transport=websockets&proxy=http://u:HIDDEN@p": "HTTPS_PROXY",
		good + ";EntityPath=e?timeout=1ms":                                  "from 100ms to 1h",
		good + ";EntityPath=e?in-flight=0":                                  "from 1 to 1000",
		good + ";EntityPath=e?properties=2":                                 "true or false",
		good + ";EntityPath=e?tls-ca=/nope":                                 "read the file that option tls-ca names",
		good + ";EntityPath=e?tls-ca=" + notPEM:                             "no certificate",
		good + ";EntityPath=e?partitions=3":                                 `unknown option "partitions"`,
		good + ";EntityPath=e?auth=managed":                                 `managed-identity`,
		good + ";EntityPath=e?auth=managed-identity":                        "leave one out",
		good + ";EntityPath=e?client-id=x":                                  "needs an option auth",
		"eventhub://h/e?auth=client-secret":                                 "auth=client-secret needs tenant-id= or AZURE_TENANT_ID",
		"eventhub://h/e?auth=client-secret&tenant-id=t&client-id=c":         "AZURE_CLIENT_SECRET",
		"eventhub://h/e?auth=client-certificate&tenant-id=t&client-id=c":    "AZURE_CLIENT_CERTIFICATE_PATH",
		"eventhub://h/e?auth=workload-identity&tenant-id=t&client-id=c":     "AZURE_FEDERATED_TOKEN_FILE",
		"eventhub://h/e;UseDevelopmentEmulator=true?auth=default":           "emulator does not support Entra ID",
	} {
		_, err := tryOpen(t, raw, env)
		if err == nil || fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "HIDDEN") &&
			want != "HIDDEN" {
			t.Errorf("%s: %v, want %q", raw, err, want)
		}
	}
}

// TestParseConnection_AcceptsAnyEscaping checks keys, which are base64 with + / and =, after they
// have passed through forms, shells and other tools.
func TestParseConnection_AcceptsAnyEscaping(t *testing.T) {
	want := connectionString{host: "ns.servicebus.windows.net", keyName: "Root Manage", key: "ab+/cd+/+efg==", hub: "hub-1"}
	for _, raw := range []string{
		"eventhub://ns.servicebus.windows.net/;SharedAccessKeyName=Root Manage;SharedAccessKey=ab+/cd+/+efg==;EntityPath=hub-1",
		"eventhub://ns.servicebus.windows.net/;SharedAccessKeyName=Root%20Manage;" +
			"SharedAccessKey=ab%2B%2Fcd%2B%2F%2Befg%3D%3D;EntityPath=hub-1",
		"eventhub://ns.servicebus.windows.net/;SharedAccessKeyName=Root%20Manage;" +
			"SharedAccessKey=ab%252B%252Fcd%252B%252F%252Befg%253D%253D;EntityPath=hub-1",
		"eventhub://ns.servicebus.windows.net/%3BSharedAccessKeyName%3DRoot%20Manage" +
			"%3BSharedAccessKey%3Dab%2B%2Fcd%2B%2F%2Befg%3D%3D%3BEntityPath%3Dhub-1",
		"eventhub://ns.servicebus.windows.net/%253BSharedAccessKeyName%253DRoot%2520Manage" +
			"%253BSharedAccessKey%253Dab%252B%252Fcd%252B%252F%252Befg%253D%253D%253BEntityPath%253Dhub-1",
		"eventhub://ns.servicebus.windows.net/;SharedAccessKeyName=Root%20Manage;SharedAccessKey=ab%20/cd%20/%20efg==;EntityPath=hub-1",
		"eventhub://ns.servicebus.windows.net;SharedAccessKey=ab+/cd+/+efg==;SharedAccessKeyName=Root Manage;EntityPath=hub-1",
		"eventhub://ns.servicebus.windows.net/;sharedaccesskeyname=Root%20Manage; SharedAccessKey=${KEY} ;ENTITYPATH=hub-1;",
		"eventhub://Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=Root%20Manage;SharedAccessKey=${KEY};EntityPath=hub-1",
		"eventhub://ns.servicebus.windows.net/hub-1;SharedAccessKeyName=Root%20Manage;SharedAccessKey=${KEY}",
		"eventhub://ns.servicebus.windows.net/;SharedAccessKeyName=Root%20Manage;SharedAccessKey=${KEY}?hub=hub-1",
	} {
		target, err := sink.ParseURL(raw, func(string) (string, bool) { return want.key, true })
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		c, err := parse(target, nil)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if diff := cmp.Diff(want, c.connectionString, cmp.AllowUnexported(connectionString{})); diff != "" {
			t.Errorf("%s\n%s", raw, diff)
		}
	}
}

func TestURLOf_ReadsPortalConnectionStrings(t *testing.T) {
	const rest = ";SharedAccessKeyName=n;SharedAccessKey=a+/b=="
	for text, want := range map[string]string{ // the result is a URL or an error
		"Endpoint=sb://ns.servicebus.windows.net/" + rest + ";EntityPath=hub": "eventhub://ns.servicebus.windows.net/" + rest +
			";EntityPath=hub",
		" EntityPath=hub" + rest + ";Endpoint=sb://ns.servicebus.windows.net ": "eventhub://ns.servicebus.windows.net/" + rest +
			";EntityPath=hub",
		"eventhub://ns.servicebus.windows.net/" + rest + ";EntityPath=hub": "eventhub://ns.servicebus.windows.net/" + rest +
			";EntityPath=hub",
		"Endpoint=sb://ns/" + rest + ";EntityPath=eds.{{.table}}": "eventhub://ns/" + rest +
			";EntityPath=eds.%7B%7B.table%7D%7D",
		"Endpoint=sb://localhost:1" + rest + ";EntityPath=h;UseDevelopmentEmulator=true": "eventhub://localhost:1/" + rest +
			";EntityPath=h;UseDevelopmentEmulator=true",
		"Endpoint=sb://ns/" + rest:         "add ;EntityPath=hub",
		"Endpoint=sb://ns/;EntityPath=hub": "it lacks SharedAccessKeyName",
		rest:                               "host name",
		"":                                 "copy it from the portal",
	} {
		got, problems := buildURL(map[string]string{"Connection String": text})
		if problems != nil {
			got = problems[0].Error
			if strings.Contains(got, "a+/b") {
				t.Errorf("%s: the error reveals the key: %s", text, got)
			}
		}
		if got != want && (problems == nil || !strings.Contains(got, want)) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// TestMaskURL_HidesTheKey matters because masked URLs appear in logs and in HQ.
func TestMaskURL_HidesTheKey(t *testing.T) {
	for _, raw := range []string{
		"eventhub://ns.x.net/;SharedAccessKeyName=n;SharedAccessKey=SECRET/SECRET==;EntityPath=h?transport=websockets",
		"eventhub://ns.x.net;SharedAccessKeyName=n;SharedAccessKey=SECRET/SECRET==;EntityPath=h",
		"eventhub://ns.x.net/%3BSharedAccessKeyName%3Dn%3BSharedAccessKey%3DSECRET%2FSECRET%3D%3D%3BEntityPath%3Dh",
		"eventhub://Endpoint=sb://ns.x.net/;SharedAccessKeyName=n;SharedAccessKey=SECRET/SECRET==;EntityPath=h",
		"eventhub://ns.x.net/;SharedAccessKeyName=n;SharedAccessKey = SECRET;EntityPath=h",
	} {
		if got := sink.MaskURL(raw, Driver()); strings.Contains(got, "SECRET") || !strings.Contains(got, "ns.x.net") {
			t.Errorf("%s becomes %s", raw, got)
		}
	}
}

func TestOpen_ReportsAMisconfiguredHub(t *testing.T) {
	t.Parallel()
	hub := newHub(t, peer.Settings{})
	good := urlTo(hub, "")
	refuse := func(what, raw, want string, class fault.Class) {
		t.Helper()
		_, err := tryOpen(t, raw, env)
		if err == nil || fault.Of(err) != class || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), peer.Key) ||
			strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v: %v, want %q", what, fault.Of(err), err, want)
		}
	}
	refuse("another key", strings.Replace(good, peer.Key, "SECRET+/==", 1), "refuses the credentials; check SharedAccessKeyName and "+
		"SharedAccessKey", fault.Fatal)
	refuse("another policy", strings.Replace(good, "="+peer.KeyName, "=other", 1), "TrackingId:abc_G1", fault.Fatal)
	refuse("a policy without Send", strings.Replace(good, "="+peer.KeyName, "="+peer.ListenKeyName, 1),
		"Data Sender (amqp:unauthorized-access, TrackingId:def_G3)", fault.Fatal)
	refuse("no such hub", strings.Replace(good, hub.Name, "missing", 1), `the hub does not exist; create it, or correct EntityPath= `+
		`(amqp:not-found, TrackingId:def_G2)`, fault.Fatal)
	refuse("a key that is wrong, and a template", strings.Replace(strings.Replace(good, peer.Key, "SECRET", 1), hub.Name, "{{.table}}", 1),
		"refuses the credentials", fault.Fatal)
	hub.Refuse(t, 403)
	refuse("forbidden", good, "refuses the credentials", fault.Fatal)
	hub.Refuse(t, 404)
	refuse("an unknown hub", good, "does not exist", fault.Fatal)
	hub.Refuse(t, 500)
	refuse("an answer that passes", good, "does not accept the token now (status 500", fault.Transient)
	hub.Refuse(t, 0)
	hub.Disable(t, true)
	refuse("a disabled hub", good, "set its status to Active", fault.Fatal)
	hub.Disable(t, false)
	refuse("no limit", urlTo(newHub(t, peer.Settings{Max: -1}), ""), "how large a message may be", fault.Fatal)
	mustOpen(t, good)
	mustOpen(t, strings.Replace(good, hub.Name, "{{.table}}", 1))

	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	refuse("no server", urlAt(closed.Addr().String(), "hub", ""), closed.Addr().String()+": connect: connection refused",
		fault.Transient)
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	refuse("no TLS", strings.Replace(urlAt(web.Listener.Addr().String(), "hub", ""), ";UseDevelopmentEmulator=true", "", 1),
		"does not speak TLS at that port", fault.Fatal)
}

func FuzzURL(f *testing.F) {
	for _, seed := range []string{
		"ns/;SharedAccessKeyName=n;SharedAccessKey=a+/b==;EntityPath=hub",
		"Endpoint=sb://ns:1/;EntityPath={{.table}};SharedAccessKeyName=n;SharedAccessKey=k", "ns/hub", "ns%3BEntityPath%3Dx",
	} {
		f.Add(seed)
	}
	e := sinktest.Numbered(f, 1)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseConnection(text)
		if err != nil {
			return
		}
		name, err := parseHub(c.hub)
		if err != nil {
			return
		}
		hub, err := name.Of(e, make(map[string]string))
		if err == nil && (hub == "" || len(hub) > maxHub || legal(hub) != hub) {
			t.Errorf("hub %q of %q", hub, text)
		}
		if c.key == "" || strings.ContainsAny(c.key+c.keyName, "%") {
			return
		}
		// Parsing c.url() must return the same connection.
		u, err := url.Parse(c.url())
		if err != nil {
			t.Fatalf("the url of %q does not parse: %v", text, err)
		}
		again, err := parseConnection(u.Host + u.Path)
		if err != nil || again != c {
			t.Errorf("%q is %+v, and then %+v, %v", text, c, again, err)
		}
	})
}
