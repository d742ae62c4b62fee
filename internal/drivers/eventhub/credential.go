package eventhub

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/shopmonkeyus/eds/internal/sink"
)

// parseAuth reads the options that say how eds authenticates to Event Hubs.
func (c *config) parseAuth(v sink.Values, lookup sink.Lookup) error {
	auth := v.Text("auth")
	if auth == "sas" {
		for _, name := range []string{"client-id", "tenant-id"} {
			if v.Given(name) {
				return fmt.Errorf("option %s needs an option auth for Entra ID, like auth=managed-identity", name)
			}
		}
		if c.key == "" {
			return errors.New("the eventhub url has no credentials; add ;SharedAccessKeyName=name;SharedAccessKey=${EVENTHUB_KEY}, or " +
				"auth=managed-identity or another Entra ID credential")
		}
		return nil
	}
	if c.key != "" {
		return fmt.Errorf("the eventhub url has both a SharedAccessKey and auth=%s; leave one out", auth)
	}
	if c.emulator {
		return errors.New("the emulator does not support Entra ID; leave auth= out, or UseDevelopmentEmulator")
	}
	return c.parseIdentity(auth, v, lookup)
}

// identity holds the values from which eds creates an Entra ID credential. A value is empty if it
// was not given.
type identity struct {
	tenant, client string
	secret         string
	certificate    string // path of a PEM or PKCS#12 file
	password       string // password of the certificate file
	tokenFile      string // path of a file with a federated token, as Kubernetes mounts it
}

// identityOf reads the identity from the URL and the environment.
func identityOf(v sink.Values, lookup sink.Lookup) identity {
	first := func(option, variable string) string {
		if option != "" && v.Given(option) {
			return v.Text(option)
		}
		value, _ := lookup(variable)
		return value
	}
	return identity{
		tenant: first("tenant-id", "AZURE_TENANT_ID"), client: first("client-id", "AZURE_CLIENT_ID"),
		secret: first("", "AZURE_CLIENT_SECRET"), certificate: first("", "AZURE_CLIENT_CERTIFICATE_PATH"),
		password: first("", "AZURE_CLIENT_CERTIFICATE_PASSWORD"), tokenFile: first("", "AZURE_FEDERATED_TOKEN_FILE"),
	}
}

func (c *config) parseIdentity(auth string, v sink.Values, lookup sink.Lookup) error {
	id := identityOf(v, lookup)
	if auth == "managed-identity" {
		id.client = v.Text("client-id") // AZURE_CLIENT_ID is an application's
	}
	need := func(pairs ...string) error {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == "" {
				return fmt.Errorf("auth=%s needs %s", auth, pairs[i+1])
			}
		}
		return nil
	}
	var err error
	switch auth {
	case "client-secret":
		err = need(id.tenant, "tenant-id= or AZURE_TENANT_ID", id.client, "client-id= or AZURE_CLIENT_ID", id.secret,
			"AZURE_CLIENT_SECRET in the environment")
	case "client-certificate":
		err = need(id.tenant, "tenant-id= or AZURE_TENANT_ID", id.client, "client-id= or AZURE_CLIENT_ID", id.certificate,
			"AZURE_CLIENT_CERTIFICATE_PATH in the environment")
	case "workload-identity":
		err = need(id.tenant, "tenant-id= or AZURE_TENANT_ID", id.client, "client-id= or AZURE_CLIENT_ID", id.tokenFile,
			"AZURE_FEDERATED_TOKEN_FILE in the environment, which Kubernetes sets if the pod has the label azure.workload.identity/use")
	}
	if err != nil {
		return err
	}
	c.credential = newLazyCredential(func() (azcore.TokenCredential, error) { return id.credential(auth, azcore.ClientOptions{}) })
	return nil
}

// credential creates a credential of the kind that the parameter auth names. It sends no request.
func (id *identity) credential(auth string, o azcore.ClientOptions) (azcore.TokenCredential, error) {
	switch auth {
	case "managed-identity":
		options := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: o}
		if id.client != "" {
			options.ID = azidentity.ClientID(id.client)
		}
		return azidentity.NewManagedIdentityCredential(options)
	case "workload-identity":
		return azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{
			ClientOptions: o, ClientID: id.client,
			TenantID: id.tenant, TokenFilePath: id.tokenFile,
		})
	case "client-secret":
		return azidentity.NewClientSecretCredential(id.tenant, id.client, id.secret,
			&azidentity.ClientSecretCredentialOptions{ClientOptions: o})
	case "client-certificate":
		text, err := os.ReadFile(id.certificate)
		if err != nil {
			return nil, fmt.Errorf("read AZURE_CLIENT_CERTIFICATE_PATH: %w", sink.WithoutPath(err))
		}
		certificates, key, err := azidentity.ParseCertificates(text, []byte(id.password))
		if err != nil {
			return nil, errors.New("read AZURE_CLIENT_CERTIFICATE_PATH: it should hold a certificate and its key, as PEM " +
				"or PKCS#12, with " +
				"AZURE_CLIENT_CERTIFICATE_PASSWORD if it has a password")
		}
		return azidentity.NewClientCertificateCredential(id.tenant, id.client, certificates, key,
			&azidentity.ClientCertificateCredentialOptions{ClientOptions: o})
	case "azure-cli":
		return azidentity.NewAzureCLICredential(&azidentity.AzureCLICredentialOptions{TenantID: id.tenant})
	default:
		return azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: o, TenantID: id.tenant})
	}
}

// lazyCredential creates the credential when the first token is requested. It is safe for
// concurrent use.
type lazyCredential struct {
	make func() (azcore.TokenCredential, error)

	mu   sync.Mutex
	made azcore.TokenCredential // nil until the first token request
}

func newLazyCredential(make func() (azcore.TokenCredential, error)) azcore.TokenCredential {
	return &lazyCredential{make: make}
}

// tokenTimeout bounds a token request to Entra ID or to the machine's identity service. The Azure
// client itself sets no bound.
const tokenTimeout = time.Minute

// GetToken returns a token. The credential caches the token until it expires.
func (l *lazyCredential) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.made == nil {
		made, err := l.make()
		if err != nil {
			return azcore.AccessToken{}, &identityError{err: err, unmade: true}
		}
		l.made = made
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	token, err := l.made.GetToken(ctx, o)
	if err != nil {
		return token, &identityError{err: err}
	}
	return token, nil
}
