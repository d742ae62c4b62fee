// Package eventhub is the destination that writes every change as an event to
// Azure Event Hubs.
package eventhub

import (
	"context"
	"net/url"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink"
)

// Driver returns the description of the destination.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "eventhub", Title: "Azure Event Hubs", Schemes: []string{"eventhub"},
		Example:  "eventhub://example.servicebus.windows.net/;SharedAccessKeyName=eds;SharedAccessKey=${EVENTHUB_KEY};EntityPath=hub",
		Summary:  "Every change as an event in Azure Event Hubs, in the order of its row.",
		Help:     help,
		Options:  options,
		Fields:   fields,
		Limits:   limits,
		URL:      urlOf,
		Identity: destinationOf,
		Open:     open,
		Borrows:  borrows,
	}
}

// borrows finds what a namespace is sent of this machine: a token of Entra ID is good for
// all namespaces.
func borrows(target *url.URL) string {
	if auth := target.Query().Get("auth"); auth != "" && auth != "sas" {
		return "an auth of Entra ID"
	}
	return ""
}

var limits = sink.Limits{Rows: 10_000, Bytes: 16 << 20}

const help = `The URL is a connection string as the Azure portal shows it, with eventhub:// for
Endpoint=sb:// in front of it, and options after a ?:

    eventhub://example.servicebus.windows.net/;SharedAccessKeyName=eds;SharedAccessKey=${EVENTHUB_KEY};EntityPath=hub
    eventhub://example.servicebus.windows.net/hub?auth=managed-identity

The shared access policy needs the claim Send. With auth= Entra ID is asked
instead, and the identity needs the role "Azure Event Hubs Data Sender":
managed-identity (client-id= names a user-assigned one), workload-identity,
client-secret, client-certificate, azure-cli, or default, which tries them in
turn. They read AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET,
AZURE_CLIENT_CERTIFICATE_PATH and AZURE_FEDERATED_TOKEN_FILE as Azure's own tools
do.

The hub has to be there. hub= may be a template over the change, as
hub=eds.{{.table}} for a hub a table; what a hub's name can not hold becomes _.
The policy is then one of the namespace, since each hub has its own otherwise.

An event's body is the change as JSON, its content type application/json, its
message id dbchange.<table>.<operation>.<company|NONE>.<location|NONE>.<change id>.
Its partition key is <table>.<company|NONE>.<location|NONE>.<row id>: events of one
row are in one partition, in order. A key of more than 128 characters, which Azure
refuses, is cut, and ends in a hash. The property objectId is the row's id; others
are eds-operation, eds-table, eds-version (the schema's) and eds-clock: thirty
characters whose order as text is the order of the changes of a row.

Events of one partition key travel together, several keys at a time (in-flight=),
those of one key one after the other. A batch is acknowledged once Event Hubs has
accepted every event. After a lost answer or a crash of eds some events come again,
in the same order: at least once, recognisable by message id. A namespace that is
away or busy is waited for. An event that is larger than the tier allows (256 KB in
Basic, 1 MB in Standard, up to 20 MB in Premium and Dedicated) goes to the dead
letters.

Where only HTTPS leads out, transport=websockets sends AMQP over WebSockets at port
443, through the proxy that HTTPS_PROXY or proxy= names. Otherwise port 5671 is used.

Bytes that are not UTF-8 become U+FFFD, the rule "invalid-utf8". An import adds an
event for each row, an INSERT with "imported": true. What is there stays.`

var options = []sink.Option{
	{Name: "hub", Description: "the hub, where it is no EntityPath; may be a template like eds.{{.table}}"},
	{Name: "auth", Default: "sas", Description: "sas, which is SharedAccessKey; or of Entra ID: managed-identity, workload-identity, client-secret, client-certificate, azure-cli or default"},
	{Name: "client-id", Default: "AZURE_CLIENT_ID", Description: "with Entra ID: the application, or the user-assigned identity"},
	{Name: "tenant-id", Default: "AZURE_TENANT_ID", Description: "with Entra ID: the directory"},
	{Name: "properties", Default: "true", Description: "false leaves only the property objectId"},
	{Name: "in-flight", Default: "128", Description: "messages that wait for their acknowledgement at a time; never two of one partition key"},
	{Name: "transport", Default: "amqp", Description: "amqp: port 5671; websockets: port 443"},
	{Name: "proxy", Default: "HTTPS_PROXY", Description: "with transport=websockets: http://host:port of a proxy, or none"},
	{Name: "tls-ca", Description: "file with the certificates of trusted authorities, PEM, where a proxy or gateway has its own"},
	{Name: "timeout", Default: "30s", Description: "how long Event Hubs may acknowledge nothing before eds reports it; it waits on all the same"},
}

var fields = []sink.Field{
	{Name: "Connection String", Type: "string", Format: "password", Description: "of a shared access policy with the claim Send: Endpoint=sb://…;SharedAccessKeyName=…;SharedAccessKey=…;EntityPath=hub", Required: true},
}

// urlOf makes a URL of the values of the driver's fields.
func urlOf(values map[string]string) (string, []sink.FieldError) {
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

// url returns the URL that the connection was read from, or might have been.
func (c *connection) url() string {
	escape := func(text string) string {
		return strings.NewReplacer("%", "%25", ";", "%3B", "?", "%3F", "#", "%23", " ", "%20", "{", "%7B", "}", "%7D").Replace(text)
	}
	text := "eventhub://" + c.host + "/;SharedAccessKeyName=" + escape(c.keyName) + ";SharedAccessKey=" + escape(c.key) + ";EntityPath=" + escape(c.hub)
	if c.emulator {
		text += ";UseDevelopmentEmulator=true"
	}
	return text
}

// open connects, and makes sure that changes can be written.
func open(ctx context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
	if err := sink.CheckOptions(target, options); err != nil {
		return nil, err
	}
	env = env.Complete()
	read := func(target *url.URL) (choices, error) { return parse(target, env.Lookup) }
	c, err := read(target)
	if err != nil {
		return nil, env.Access.Reject(err)
	}
	c.renew = func() (choices, error) { return sink.Renew(env.Access, target, read) }
	s := newSink(c, env)
	if err := s.Probe(ctx); err != nil {
		_ = s.Close(ctx) // it has nothing to say
		return nil, err
	}
	return s, nil
}
