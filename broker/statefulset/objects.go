package statefulset

import (
	"encoding/base64"
	"maps"
	"strconv"

	"github.com/sealane/sealane/broker/pod"
	"github.com/sealane/sealane/broker/statefulset/kube"
)

// Names of the objects in a member's namespace. There is one member in each.
const (
	brokerName  = "sealane-broker"
	podsName    = "sealane-broker-pods"
	linksName   = "sealane-links"
	bootName    = "sealane.broker"
	volumeName  = "data"
	bootDir     = "/etc/sealane/broker"
	dataDir     = "/var/lib/sealane/broker"
	nameLabel   = "app.kubernetes.io/name"
	memberLabel = "sealane.io/member"
)

// Ports of a server.
const (
	clientPort  = 4222
	linkPort    = 7422
	routePort   = 6222
	controlPort = 7521
	healthPort  = 8080
)

// claim is what a StatefulSet says once and for all of its volumes.
type claim struct {
	size         string
	storageClass *string
}

// objectMaker makes the objects of a member. It is pure.
type objectMaker struct {
	namespace, member string
	// owner is a reference to the agent's StatefulSet; nil: none.
	owner kube.Object
	t     *Template
	// claim is that of the StatefulSet that exists; nil: there is none.
	claim *claim
}

func (m *objectMaker) object(apiVersion, kind, name string) kube.Object {
	meta := kube.Object{
		"name": name, "namespace": m.namespace,
		"labels": kube.Object{
			nameLabel: brokerName, "app.kubernetes.io/managed-by": "sealane-agent",
			"app.kubernetes.io/part-of": "sealane", memberLabel: m.member,
		},
	}
	if m.owner != nil {
		meta["ownerReferences"] = []any{m.owner}
	}
	return kube.Object{"apiVersion": apiVersion, "kind": kind, "metadata": meta}
}

var selector = kube.Object{nameLabel: brokerName}

func annotate(o kube.Object, annotations map[string]string) {
	if len(annotations) > 0 {
		o["metadata"].(kube.Object)["annotations"] = annotations
	}
}

func port(name string, number int, target string) kube.Object {
	return kube.Object{"name": name, "port": number, "targetPort": target, "protocol": "TCP"}
}

func (m *objectMaker) secret(boot []byte) kube.Object {
	o := m.object("v1", "Secret", bootName)
	o["type"] = "Opaque"
	o["data"] = kube.Object{pod.BootFile: base64.StdEncoding.EncodeToString(boot)}
	return o
}

// podsService gives each pod its name, also before it is ready: servers find each
// other and are found by the agent by it.
func (m *objectMaker) podsService() kube.Object {
	o := m.object("v1", "Service", podsName)
	o["spec"] = kube.Object{
		"clusterIP": "None", "publishNotReadyAddresses": true, "selector": selector,
		"ports": []any{port("clients", clientPort, "clients"), port("routes", routePort, "routes"), port("control", controlPort, "control")},
	}
	return o
}

func (m *objectMaker) clientService() kube.Object {
	o := m.object("v1", "Service", brokerName)
	annotate(o, m.t.ClientService.Annotations)
	o["spec"] = kube.Object{
		"type": m.t.ClientService.Type, "selector": selector, "ports": []any{port("clients", clientPort, "clients")},
	}
	return o
}

func (m *objectMaker) linkService() kube.Object {
	l := m.t.LinkService
	o := m.object("v1", "Service", linksName)
	annotate(o, l.Annotations)
	p := port("links", l.Port, "links")
	if l.NodePort != 0 && l.Type != "ClusterIP" {
		p["nodePort"] = l.NodePort
	}
	spec := kube.Object{"type": l.Type, "selector": selector, "ports": []any{p}}
	if l.Type == "LoadBalancer" {
		if l.LoadBalancerClass != "" {
			spec["loadBalancerClass"] = l.LoadBalancerClass
		}
		if len(l.LoadBalancerSourceRanges) > 0 {
			spec["loadBalancerSourceRanges"] = l.LoadBalancerSourceRanges
		}
	}
	if l.ExternalTrafficPolicy != "" && l.Type != "ClusterIP" {
		spec["externalTrafficPolicy"] = l.ExternalTrafficPolicy
	}
	o["spec"] = spec
	return o
}

func (m *objectMaker) disruptionBudget() kube.Object {
	o := m.object("policy/v1", "PodDisruptionBudget", brokerName)
	o["spec"] = kube.Object{"maxUnavailable": 1, "selector": kube.Object{"matchLabels": selector}}
	return o
}

func (m *objectMaker) statefulSet(replicas int) kube.Object {
	c := claim{size: m.t.Volume.Size, storageClass: m.t.Volume.StorageClass}
	if m.claim != nil {
		c = *m.claim // it cannot be changed
	}
	claimSpec := kube.Object{
		"accessModes": []any{"ReadWriteOnce"}, "resources": kube.Object{"requests": kube.Object{"storage": c.size}},
	}
	if c.storageClass != nil {
		claimSpec["storageClassName"] = *c.storageClass
	}
	o := m.object("apps/v1", "StatefulSet", brokerName)
	o["spec"] = kube.Object{
		"serviceName": podsName, "replicas": replicas, "selector": kube.Object{"matchLabels": selector},
		// The agent brings servers up one by one; after a power cut all come at once.
		"podManagementPolicy": "Parallel",
		"updateStrategy":      kube.Object{"type": "OnDelete"},
		"persistentVolumeClaimRetentionPolicy": kube.Object{
			"whenDeleted": m.t.Volume.WhenDeleted, "whenScaled": m.t.Volume.WhenScaled,
		},
		"template": m.podTemplate(),
		"volumeClaimTemplates": []any{kube.Object{
			"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": kube.Object{"name": volumeName}, "spec": claimSpec,
		}},
	}
	return o
}

func (m *objectMaker) podTemplate() kube.Object {
	t := m.t
	labels := kube.Object{}
	for k, v := range t.Labels {
		labels[k] = v
	}
	maps.Copy(labels, kube.Object{nameLabel: brokerName, "app.kubernetes.io/part-of": "sealane", memberLabel: m.member})
	meta := kube.Object{"labels": labels}
	if len(t.Annotations) > 0 {
		meta["annotations"] = t.Annotations
	}
	spec := kube.Object{
		"automountServiceAccountToken": false, "enableServiceLinks": false,
		"terminationGracePeriodSeconds": t.TerminationGracePeriodSeconds,
		"securityContext":               t.PodSecurityContext,
		"containers":                    []any{m.container()},
		"volumes": []any{kube.Object{
			"name": "boot", "secret": kube.Object{"secretName": bootName, "defaultMode": 0o440},
		}},
	}
	for k, v := range map[string]any{
		"nodeSelector": t.NodeSelector, "tolerations": t.Tolerations,
		"topologySpreadConstraints": t.TopologySpreadConstraints, "imagePullSecrets": t.ImagePullSecrets,
		"priorityClassName": t.PriorityClassName, "affinity": m.affinity(),
	} {
		if !empty(v) {
			spec[k] = v
		}
	}
	return kube.Object{"metadata": meta, "spec": spec}
}

func empty(v any) bool {
	switch x := v.(type) {
	case string:
		return x == ""
	case []any:
		return len(x) == 0
	case map[string]any:
		return len(x) == 0
	case map[string]string:
		return len(x) == 0
	case []map[string]string:
		return len(x) == 0
	}
	return v == nil
}

func (m *objectMaker) affinity() map[string]any {
	if len(m.t.Affinity) > 0 {
		return m.t.Affinity
	}
	term := map[string]any{"labelSelector": map[string]any{"matchLabels": selector}, "topologyKey": "kubernetes.io/hostname"}
	switch m.t.AntiAffinity {
	case "Required":
		return map[string]any{"podAntiAffinity": map[string]any{"requiredDuringSchedulingIgnoredDuringExecution": []any{term}}}
	case "Preferred":
		return map[string]any{"podAntiAffinity": map[string]any{"preferredDuringSchedulingIgnoredDuringExecution": []any{
			map[string]any{"weight": 100, "podAffinityTerm": term},
		}}}
	}
	return nil
}

func (m *objectMaker) container() kube.Object {
	t := m.t
	at := func(port int) string { return ":" + strconv.Itoa(port) }
	probe := func(path string, period, failures int) kube.Object {
		return kube.Object{
			"httpGet": kube.Object{"path": path, "port": "health"}, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 5,
		}
	}
	args := []any{
		"broker", "--name=$(POD_NAME)", "--data=" + dataDir, "--boot=" + bootDir,
		"--control-listen=" + at(controlPort), "--client-listen=" + at(clientPort), "--link-listen=" + at(linkPort),
		"--route-listen=" + at(routePort), "--health-listen=" + at(healthPort),
		"--log-level=" + t.LogLevel, "--log-format=json",
	}
	var ports []any
	for _, p := range []struct {
		name   string
		number int
	}{{"clients", clientPort}, {"links", linkPort}, {"routes", routePort}, {"control", controlPort}, {"health", healthPort}} {
		ports = append(ports, kube.Object{"name": p.name, "containerPort": p.number, "protocol": "TCP"})
	}
	c := kube.Object{
		"name": "broker", "image": t.Image, "args": args, "ports": ports,
		"env": []any{
			kube.Object{"name": "POD_NAME", "valueFrom": kube.Object{"fieldRef": kube.Object{"fieldPath": "metadata.name"}}},
			// What a load leaves behind is collected before the pod is killed for it.
			kube.Object{"name": "GOMEMLIMIT", "valueFrom": kube.Object{"resourceFieldRef": kube.Object{"resource": "limits.memory"}}},
		},
		"securityContext": t.SecurityContext,
		"volumeMounts": []any{
			kube.Object{"name": volumeName, "mountPath": dataDir},
			kube.Object{"name": "boot", "mountPath": bootDir, "readOnly": true},
		},
		"livenessProbe": probe("/healthz", 10, 6), "readinessProbe": probe("/readyz", 2, 2),
	}
	if t.ImagePullPolicy != "" {
		c["imagePullPolicy"] = t.ImagePullPolicy
	}
	if len(t.Resources) > 0 {
		c["resources"] = t.Resources
	}
	return c
}
