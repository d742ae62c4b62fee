// Package eventhub is the destination that writes every change as an event to
// Azure Event Hubs.
package eventhub

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/sink"
)

// Driver returns the description of the destination.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "eventhub", Title: "Azure Event Hubs", Schemes: []string{"eventhub"},
		Example:  "eventhub://example.servicebus.windows.net/;SharedAccessKeyName=eds;SharedAccessKey=${EVENTHUB_KEY};EntityPath=hub",
		Summary:  "Writes every change as an event to Azure Event Hubs, in the order of its row.",
		Help:     help,
		Options:  options,
		Fields:   fields,
		Limits:   limits,
		URL:      buildURL,
		Identity: destinationOf,
		Open:     open,
		Borrows:  borrows,
	}
}

// borrows names the part of target that makes a sink send a credential of this machine to the
// destination, or returns "" if target has no such part. A token of Entra ID is valid for all
// namespaces, so only the operator's own URL may use one.
func borrows(target *url.URL) string {
	if auth := target.Query().Get("auth"); auth != "" && auth != "sas" {
		return "an auth of Entra ID"
	}
	return ""
}

var limits = sink.Limits{Rows: 10_000, Bytes: 16 << 20}

const help = `The URL is a connection string as the Azure portal shows it, with eventhub:// in place
of Endpoint=sb://, and options after a ?:

    eventhub://example.servicebus.windows.net/;SharedAccessKeyName=eds;SharedAccessKey=${EVENTHUB_KEY};EntityPath=hub
    eventhub://example.servicebus.windows.net/hub?auth=managed-identity

The shared access policy needs the claim Send. With auth= eds signs in with Entra ID
instead, and the identity needs the role "Azure Event Hubs Data Sender":
managed-identity (client-id= names a user-assigned one), workload-identity,
client-secret, client-certificate, azure-cli, or default, which tries them in
turn. They read AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET,
AZURE_CLIENT_CERTIFICATE_PATH and AZURE_FEDERATED_TOKEN_FILE as Azure's own tools
do.

The hub must exist. hub= may be a template over the change: hub=eds.{{.table}} writes
one hub per table, and _ replaces characters that a hub's name cannot have. The policy
must then be one of the namespace, because a hub's own policy covers only that hub.

An event's body is the change as JSON, its content type application/json, its
message id dbchange.<table>.<operation>.<company|NONE>.<location|NONE>.<change id>.
Its partition key is <table>.<company|NONE>.<location|NONE>.<row id>: events of one
row are in one partition, in order. Azure refuses a key of more than 128 characters,
so a longer one is cut and ends in a hash. The property objectId is the row's id; others
are eds-operation, eds-table, eds-version (the schema's) and eds-clock: thirty
characters whose order as text is the order of the changes of a row.

Events of several partition keys travel at a time (in-flight=), those of one key one
after the other. A batch is acknowledged once Event Hubs has accepted every event. If
an answer is lost or eds crashes, some events are sent again, in the same order: at
least once, with the same message id. If a namespace is down or busy, eds waits and
retries. An event that is larger than the tier allows (256 KB in Basic, 1 MB in
Standard, up to 20 MB in Premium and Dedicated) is dead-lettered.

If the network allows only HTTPS, transport=websockets sends AMQP over WebSockets at
port 443, through the proxy that HTTPS_PROXY or proxy= names. The default is port 5671.

Bytes that are not UTF-8 become U+FFFD, the rule "invalid-utf8". An import adds an
event for each row, an INSERT with "imported": true. Existing events stay.`

var options = []sink.Option{
	{Name: "hub", Harmless: true, Help: "the hub, if the connection string has no `EntityPath`; may be a template like `eds.{{.table}}`"},
	{
		Name: "auth", Default: "sas",
		Type: sink.OneOf("sas", "managed-identity", "workload-identity", "client-secret", "client-certificate", "azure-cli", "default"),
		Help: "`sas`: the shared access key; with Entra ID: `managed-identity`, `workload-identity`, `client-secret`, " +
			"`client-certificate`, `azure-cli`, or `default`, which tries them in turn",
	},
	{
		Name: "client-id", DefaultNote: "`AZURE_CLIENT_ID`", Harmless: true,
		Help: "with Entra ID: the application, or the user-assigned managed identity (which has no default)",
	},
	{Name: "tenant-id", DefaultNote: "`AZURE_TENANT_ID`", Harmless: true, Help: "with Entra ID: the directory"},
	{Name: "properties", Type: sink.Bool{}, Default: "true", Help: "`false` leaves only the property `objectId`"},
	{
		Name: "in-flight", Type: sink.Int{Min: 1, Max: maxInFlight}, Default: "128",
		Help: "maximum number of unacknowledged messages, 1 to 1000; never two with the same partition key",
	},
	{
		Name: "transport", Type: sink.OneOf("amqp", "websockets"), Default: "amqp",
		Help: "`amqp`: port 5671; `websockets`: AMQP over WebSockets, port 443",
	},
	{
		Name: "proxy", DefaultNote: "`HTTPS_PROXY`, less `NO_PROXY`",
		Help: "with `transport=websockets`: `http://host:port` of a proxy, or `none`; " +
			"put a proxy with a password into the environment",
	},
	{Name: "tls-ca", Type: sink.FilePath{}, Harmless: true, Help: "PEM file with trusted authorities, if a proxy or gateway has its own"},
	{
		Name: "timeout", Type: sink.Duration{Min: 100 * time.Millisecond, Max: time.Hour}, Default: "30s",
		Help: "how long Event Hubs may acknowledge nothing before eds reports it; eds keeps waiting",
	},
}

var fields = []sink.Field{
	{
		Name: "Connection String", Type: "string", Format: "password", Required: true,
		Description: "of a shared access policy with the claim Send: " +
			"Endpoint=sb://…;SharedAccessKeyName=…;SharedAccessKey=…;EntityPath=hub",
	},
}

// buildURL builds a destination URL from the values of the driver's fields.
func buildURL(values map[string]string) (string, []sink.FieldError) {
	const field = "Connection String"
	refuse := func(why string) (string, []sink.FieldError) {
		return "", []sink.FieldError{{Field: field, Error: why}}
	}
	text := strings.TrimPrefix(strings.TrimSpace(values[field]), "eventhub://")
	if text == "" {
		return refuse("copy it from the portal: the namespace, Shared access policies, a policy with the claim Send")
	}
	c, err := parseConnection(text)
	if err != nil {
		return refuse(err.Error())
	}
	if c.key == "" {
		return refuse("it lacks SharedAccessKeyName and SharedAccessKey")
	}
	if _, err := parseHub(c.hub); err != nil {
		return refuse("name the hub: add ;EntityPath=hub (" + err.Error() + ")")
	}
	return c.url(), nil
}

// url returns the destination URL for the connection string.
func (c *connectionString) url() string {
	escape := func(text string) string {
		return strings.NewReplacer("%", "%25", ";", "%3B", "?", "%3F", "#", "%23", " ", "%20", "{", "%7B", "}", "%7D").Replace(text)
	}
	text := "eventhub://" + c.host + "/;SharedAccessKeyName=" + escape(c.keyName) + ";SharedAccessKey=" + escape(c.key) +
		";EntityPath=" + escape(c.hub)
	if c.emulator {
		text += ";UseDevelopmentEmulator=true"
	}
	return text
}

// open connects to the namespace and checks that eds may send events.
func open(ctx context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
	env = env.Complete()
	read := func(target *url.URL) (config, error) { return parse(target, env.Lookup) }
	c, err := read(target)
	if err != nil {
		return nil, env.Access.Reject(err)
	}
	c.renew = func() (config, error) { return sink.Renew(env.Access, target, read) }
	s := newSink(c, env)
	if err := s.Probe(ctx); err != nil {
		_ = s.Close(ctx) // eds has written nothing, so a failed close loses nothing
		return nil, err
	}
	return s, nil
}
