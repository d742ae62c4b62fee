package eventhub

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

// TestIdentity_ErrorsHoldNoValue creates credentials from invalid values. It sends no request to
// Entra ID.
func TestIdentity_ErrorsHoldNoValue(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("-----BEGIN hunter2-----\naHVudGVyMg==\n-----END hunter2-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	id := func(change func(*identity)) identity {
		id := identity{tenant: "tenant", client: "client", secret: "secret", certificate: file, tokenFile: file}
		change(&id)
		return id
	}
	for name, c := range map[string]struct {
		auth string
		id   identity
	}{
		"tenant":                {"client-secret", id(func(id *identity) { id.tenant = "hunter2/" })},
		"tenant of the cli":     {"azure-cli", id(func(id *identity) { id.tenant = "hunter2/" })},
		"tenant of a workload":  {"workload-identity", id(func(id *identity) { id.tenant = "hunter2/" })},
		"certificate's path":    {"client-certificate", id(func(id *identity) { id.certificate = "/nonexistent/hunter2" })},
		"certificate's content": {"client-certificate", id(func(*identity) {})},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLazyCredential(func() (azcore.TokenCredential, error) { return c.id.credential(c.auth, azcore.ClientOptions{}) })
			_, err := l.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://eventhubs.azure.net/.default"}})
			if err == nil {
				t.Fatal("there is a token")
			}
			if text := err.(*identityError).classify().Error(); strings.Contains(text, "hunter2") {
				t.Error(text)
			}
		})
	}
	_, unread := os.ReadFile("/nonexistent/hunter2")
	for _, e := range []*identityError{{err: fmt.Errorf("read the token: %w", unread)}, {err: unread, unmade: true}} {
		if text := e.classify().Error(); !strings.HasSuffix(text, "no such file or directory") || strings.Contains(text, "hunter2") {
			t.Error(text)
		}
	}
}
