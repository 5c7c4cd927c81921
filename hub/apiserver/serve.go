package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	noopoteltrace "go.opentelemetry.io/otel/trace/noop"
	"k8s.io/apiextensions-apiserver/pkg/apiserver"
	listers "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	generatedopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/healthz"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	openapifeatures "k8s.io/apiserver/pkg/util/openapi"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

const (
	// drain is how long a stopping server waits for requests and watches to end,
	// and lastWords how long for their answers to be on the way.
	drain     = 2 * time.Second
	lastWords = 20 * time.Millisecond
)

// apiServer is the Kubernetes API server.
type apiServer struct {
	*genericapiserver.GenericAPIServer
	// crds are the definitions as the server that serves their kinds sees them.
	crds listers.CustomResourceDefinitionLister
	// drained is closed when the stopping server has answered everything.
	drained <-chan struct{}
}

// newAPIServer puts the Kubernetes API server together, by hand rather than with
// the libraries' options: those assume a core API next to it, from which they
// take namespaces, quotas and webhooks.
func newAPIServer(store *store, addr *address, certs *certificates, loopback *rest.Config) (*apiServer, error) {
	cfg := genericapiserver.NewRecommendedConfig(apiserver.Codecs)
	cfg.EffectiveVersion = newKubeVersion()
	cfg.ExternalAddress = addr.Addr().String()
	cfg.LoopbackClientConfig = loopback
	cfg.EnableProfiling = false
	cfg.EnableIndex = false
	// Not the default check of the log, whose goroutine nothing ever ends.
	ping := []healthz.HealthChecker{healthz.PingHealthz}
	cfg.HealthzChecks, cfg.LivezChecks, cfg.ReadyzChecks = ping, ping, ping
	cfg.ShutdownWatchTerminationGracePeriod = drain
	if err := secure(&cfg.Config, addr, certs); err != nil {
		return nil, err
	}

	etcd := newStorageOptions(store.endpoint)
	if err := etcd.ApplyTo(&cfg.Config); err != nil {
		return nil, fmt.Errorf("configure the API's storage: %w", err)
	}
	cfg.RESTOptionsGetter = withBookmarks{cfg.RESTOptionsGetter}
	if err := genericoptions.NewAPIEnablementOptions().ApplyTo(&cfg.Config, apiserver.DefaultAPIResourceConfigSource(), apiserver.Scheme); err != nil {
		return nil, err
	}

	defs := openapifeatures.GetOpenAPIDefinitionsWithoutDisabledFeatures(generatedopenapi.GetOpenAPIDefinitions)
	names := openapi.NewDefinitionNamer(apiserver.Scheme, scheme.Scheme)
	cfg.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(defs, names)
	cfg.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(defs, names)
	cfg.OpenAPIConfig.Info.Title, cfg.OpenAPIV3Config.Info.Title = "Sealane", "Sealane"

	ext := &apiserver.Config{GenericConfig: cfg, ExtraConfig: apiserver.ExtraConfig{
		CRDRESTOptionsGetter: withBookmarks{options.NewCRDRESTOptionsGetter(*etcd, cfg.ResourceTransformers, cfg.StorageObjectCountTracker)},
		ServiceResolver:      noServices{},
		AuthResolverWrapper:  webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, loopback, noopoteltrace.NewTracerProvider()),
	}}
	root := newRootDiscovery()
	cfg.AggregatedDiscoveryGroupManager = root.manager
	s, err := ext.Complete().New(root)
	if err != nil {
		return nil, fmt.Errorf("configure the API: %w", err)
	}
	root.crds = s.Informers.Apiextensions().V1().CustomResourceDefinitions().Lister()
	s.GenericAPIServer.ShutdownTimeout = drain
	return &apiServer{
		GenericAPIServer: s.GenericAPIServer,
		crds:             root.crds,
		drained:          cfg.DrainedNotify(),
	}, nil
}

// run serves until ctx ends.
func (s *apiServer) run(ctx context.Context, addr *address) error {
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-s.drained:
		case <-done:
			return
		}
		select {
		case <-time.After(lastWords):
		case <-done:
		}
		addr.hangUp()
	}()
	return s.PrepareRun().RunWithContext(ctx)
}

// secure lets in who shows a client certificate of the API's authority, and lets
// only system:masters do anything. There is no anonymous user, no token and no
// header that names one.
func secure(cfg *genericapiserver.Config, addr *address, certs *certificates) error {
	ca, err := dynamiccertificates.NewStaticCAContent("api-ca", certs.pki.caPEM)
	if err != nil {
		return err
	}
	cfg.SecureServing = &genericapiserver.SecureServingInfo{
		Listener:      addr,
		Cert:          &certs.serving,
		ClientCA:      ca,
		MinTLSVersion: minTLS,
	}
	cfg.Authentication.Authenticator = x509.NewDynamic(ca.VerifyOptions, x509.CommonNameUserConversion)
	cfg.Authorization.Authorizer = authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)
	return nil
}

// noServices refuses conversion webhooks that are named by a Service.
type noServices struct{}

func (noServices) ResolveEndpoint(string, string, int32) (*url.URL, error) {
	return nil, errors.New("this API server has no Services")
}
