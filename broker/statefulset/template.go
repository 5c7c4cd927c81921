package statefulset

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Template is how the servers' pods look: what a cluster's owner decides and no
// plan of a hub says. Maps and lists without a type of ours go into the objects
// as they are.
type Template struct {
	Image            string              `json:"image"`
	ImagePullPolicy  string              `json:"imagePullPolicy,omitempty"`
	ImagePullSecrets []map[string]string `json:"imagePullSecrets,omitempty"`
	Labels           map[string]string   `json:"labels,omitempty"`
	Annotations      map[string]string   `json:"annotations,omitempty"`
	Resources        map[string]any      `json:"resources,omitempty"`
	Volume           Volume              `json:"volume"`

	NodeSelector              map[string]string `json:"nodeSelector,omitempty"`
	Tolerations               []any             `json:"tolerations,omitempty"`
	Affinity                  map[string]any    `json:"affinity,omitempty"`
	TopologySpreadConstraints []any             `json:"topologySpreadConstraints,omitempty"`
	// AntiAffinity between the servers: Preferred, Required or None.
	AntiAffinity      string `json:"antiAffinity,omitempty"`
	PriorityClassName string `json:"priorityClassName,omitempty"`

	PodSecurityContext            map[string]any `json:"podSecurityContext,omitempty"`
	SecurityContext               map[string]any `json:"securityContext,omitempty"`
	TerminationGracePeriodSeconds int64          `json:"terminationGracePeriodSeconds,omitempty"`

	ClientService       ClientService `json:"clientService"`
	LinkService         LinkService   `json:"linkService"`
	PodDisruptionBudget struct {
		Enabled *bool `json:"enabled,omitempty"`
	} `json:"podDisruptionBudget"`
	LogLevel string `json:"logLevel,omitempty"`
}

// Volume is that of each server.
type Volume struct {
	Size string `json:"size,omitempty"`
	// StorageClass; nil: the cluster's default.
	StorageClass *string `json:"storageClass,omitempty"`
	// What becomes of volumes when the StatefulSet is deleted, or a server is scaled
	// away: Retain or Delete.
	WhenDeleted string `json:"whenDeleted,omitempty"`
	WhenScaled  string `json:"whenScaled,omitempty"`
}

// ClientService is what applications connect to.
type ClientService struct {
	Type        string            `json:"type,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// HostNames are further names for the servers' certificates.
	HostNames []string `json:"hostNames,omitempty"`
}

// LinkService is what peers connect to.
type LinkService struct {
	Enabled                  *bool             `json:"enabled,omitempty"`
	Type                     string            `json:"type,omitempty"`
	Port                     int               `json:"port,omitempty"`
	NodePort                 int               `json:"nodePort,omitempty"`
	Annotations              map[string]string `json:"annotations,omitempty"`
	LoadBalancerClass        string            `json:"loadBalancerClass,omitempty"`
	LoadBalancerSourceRanges []string          `json:"loadBalancerSourceRanges,omitempty"`
	ExternalTrafficPolicy    string            `json:"externalTrafficPolicy,omitempty"`
}

// ReadTemplate reads a template and fills in what it leaves out.
func ReadTemplate(path string) (*Template, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	t, err := parseTemplate(b)
	if err != nil {
		return nil, fmt.Errorf("broker template %s: %w", path, err)
	}
	return t, nil
}

func parseTemplate(b []byte) (*Template, error) {
	var raw any
	if err := yaml.Unmarshal(b, &raw); err != nil {
		return nil, err
	}
	j, err := json.Marshal(raw)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(j))
	d.DisallowUnknownFields()
	t := &Template{}
	if err := d.Decode(t); err != nil {
		return nil, err
	}
	t.complete()
	return t, t.check()
}

func orElse(s *string, v string) {
	if *s == "" {
		*s = v
	}
}

func (t *Template) complete() {
	yes := true
	orElse(&t.Volume.Size, "10Gi")
	orElse(&t.Volume.WhenDeleted, "Retain")
	orElse(&t.Volume.WhenScaled, "Retain")
	orElse(&t.AntiAffinity, "Preferred")
	orElse(&t.ClientService.Type, "ClusterIP")
	orElse(&t.LinkService.Type, "ClusterIP")
	orElse(&t.LogLevel, "info")
	if t.LinkService.Enabled == nil {
		t.LinkService.Enabled = &yes
	}
	if t.LinkService.Port == 0 {
		t.LinkService.Port = linkPort
	}
	if t.PodDisruptionBudget.Enabled == nil {
		t.PodDisruptionBudget.Enabled = &yes
	}
	if t.TerminationGracePeriodSeconds == 0 {
		t.TerminationGracePeriodSeconds = 60
	}
	if t.PodSecurityContext == nil {
		t.PodSecurityContext = map[string]any{
			"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
			"fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": map[string]any{"type": "RuntimeDefault"},
		}
	}
	if t.SecurityContext == nil {
		t.SecurityContext = map[string]any{
			"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
			"capabilities": map[string]any{"drop": []any{"ALL"}},
		}
	}
}

func (t *Template) check() error {
	var errs []error
	if t.Image == "" {
		errs = append(errs, errors.New("image is missing"))
	}
	for _, c := range []struct {
		field, value string
		allowed      []string
	}{
		{"volume.whenDeleted", t.Volume.WhenDeleted, []string{"Retain", "Delete"}},
		{"volume.whenScaled", t.Volume.WhenScaled, []string{"Retain", "Delete"}},
		{"antiAffinity", t.AntiAffinity, []string{"Preferred", "Required", "None"}},
		{"clientService.type", t.ClientService.Type, []string{"ClusterIP", "NodePort", "LoadBalancer"}},
		{"linkService.type", t.LinkService.Type, []string{"ClusterIP", "NodePort", "LoadBalancer"}},
		{"logLevel", t.LogLevel, []string{"debug", "info", "warn", "error"}},
	} {
		if !slices.Contains(c.allowed, c.value) {
			errs = append(errs, fmt.Errorf("%s is %q: one of %v is possible", c.field, c.value, c.allowed))
		}
	}
	return errors.Join(errs...)
}
